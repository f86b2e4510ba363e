"""`fasttrain profile`: where a step's time goes, and which setting to change."""
