"""The Faust side: one agent a stage, each fed whole fetches by a member of its consumer group."""
