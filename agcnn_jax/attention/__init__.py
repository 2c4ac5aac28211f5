"""From the global branch's feature map to the local branch's input (Section III-B)."""

STATISTICS = ("max", "l1", "l2")
"""The channel statistics of Section III-B and Table III."""

LOCAL_INPUTS = ("crop", "image", "centred")
"""What the local branch reads; see `Recipe.local_input`."""
