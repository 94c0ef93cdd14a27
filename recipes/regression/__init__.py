"""What the programs of capsule regression share."""
