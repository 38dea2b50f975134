"""Market data on Kafka turned into tested, repeatable signals."""
