"""The paper's experiments: which runs they need, training them, and their tables and figures."""
