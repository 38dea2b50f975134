-- Hours and days, from M1. M5 and M15 are streamed: a second truth would differ.

CREATE MATERIALIZED VIEW market_data_h1
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    pair,
    time_bucket(INTERVAL '1 hour', "timestamp") AS "timestamp",
    first(open, "timestamp") AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, "timestamp") AS close,
    sum(volume) AS volume,
    count(*) AS bars
FROM market_data
WHERE timeframe = 'M1'
GROUP BY 1, 2
WITH NO DATA;

CREATE MATERIALIZED VIEW market_data_d1
WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT
    pair,
    time_bucket(INTERVAL '1 day', "timestamp") AS "timestamp",
    first(open, "timestamp") AS open,
    max(high) AS high,
    min(low) AS low,
    last(close, "timestamp") AS close,
    sum(volume) AS volume,
    count(*) AS bars
FROM market_data
WHERE timeframe = 'M1'
GROUP BY 1, 2
WITH NO DATA;

SELECT add_continuous_aggregate_policy(
    'market_data_h1', start_offset => NULL, end_offset => INTERVAL '1 day', schedule_interval => INTERVAL '1 hour'
);
SELECT add_continuous_aggregate_policy(
    'market_data_d1', start_offset => NULL, end_offset => INTERVAL '3 days', schedule_interval => INTERVAL '1 day'
);

COMMENT ON VIEW market_data_h1 IS
    'Bars of an hour, from M1. A bar that comes over a day late is seen after the hourly refresh, or `sep-stream db '
    'refresh`.';
COMMENT ON COLUMN market_data_h1.pair IS 'Instrument.';
COMMENT ON COLUMN market_data_h1."timestamp" IS 'When the hour begins.';
COMMENT ON COLUMN market_data_h1.open IS 'First price.';
COMMENT ON COLUMN market_data_h1.high IS 'Highest price.';
COMMENT ON COLUMN market_data_h1.low IS 'Lowest price.';
COMMENT ON COLUMN market_data_h1.close IS 'Last price.';
COMMENT ON COLUMN market_data_h1.volume IS 'Sum of the bars'' volumes.';
COMMENT ON COLUMN market_data_h1.bars IS 'How many M1 bars there are.';
COMMENT ON VIEW market_data_d1 IS
    'Bars of a day (UTC), from M1. A bar that comes over three days late is seen after the daily refresh, or '
    '`sep-stream db refresh`.';
COMMENT ON COLUMN market_data_d1.pair IS 'Instrument.';
COMMENT ON COLUMN market_data_d1."timestamp" IS 'When the day begins.';
COMMENT ON COLUMN market_data_d1.open IS 'First price.';
COMMENT ON COLUMN market_data_d1.high IS 'Highest price.';
COMMENT ON COLUMN market_data_d1.low IS 'Lowest price.';
COMMENT ON COLUMN market_data_d1.close IS 'Last price.';
COMMENT ON COLUMN market_data_d1.volume IS 'Sum of the bars'' volumes.';
COMMENT ON COLUMN market_data_d1.bars IS 'How many M1 bars there are.';

GRANT SELECT ON market_data_h1, market_data_d1 TO sep_trading, sep_training, sep_read;
