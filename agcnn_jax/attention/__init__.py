"""From the global branch's feature map to the local branch's input (Section III-B)."""
