"""The parts that programs of capsule regression share."""
