"""What `from fasttrain import …` gives: each command, from its settings to what it leaves."""
