"""Weight files: reading, writing, loading into networks, and averaging."""
