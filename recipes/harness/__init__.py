"""The parts that programs share: options, run folders, training, studies, tables and plots."""
