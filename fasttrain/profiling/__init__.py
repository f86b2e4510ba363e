"""`fasttrain profile`: find out how a step spends its time, and which setting to change."""
