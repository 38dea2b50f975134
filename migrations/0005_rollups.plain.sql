-- Hours and days, from M1. M5 and M15 are streamed: a second truth would differ.
-- What is old is stored, and refreshed by `sep-stream db refresh`; what is newer is computed by each query, as
-- TimescaleDB's continuous aggregates do.

CREATE MATERIALIZED VIEW market_data_h1_stored AS
SELECT
    pair,
    date_bin('1 hour', "timestamp", TIMESTAMPTZ '2000-01-01 00:00:00Z') AS "timestamp",
    (array_agg(open ORDER BY "timestamp"))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY "timestamp" DESC))[1] AS close,
    sum(volume) AS volume,
    count(*) AS bars
FROM market_data
WHERE timeframe = 'M1' AND "timestamp" < (
    SELECT date_bin('1 hour', max("timestamp"), TIMESTAMPTZ '2000-01-01 00:00:00Z') - INTERVAL '1 day'
    FROM market_data
    WHERE timeframe = 'M1'
)
GROUP BY 1, 2;
CREATE UNIQUE INDEX market_data_h1_stored_key ON market_data_h1_stored (pair, "timestamp");
CREATE INDEX market_data_h1_stored_timestamp ON market_data_h1_stored ("timestamp");

CREATE VIEW market_data_h1 AS
SELECT pair, "timestamp", open, high, low, close, volume, bars FROM market_data_h1_stored
UNION ALL
SELECT
    pair,
    date_bin('1 hour', "timestamp", TIMESTAMPTZ '2000-01-01 00:00:00Z'),
    (array_agg(open ORDER BY "timestamp"))[1],
    max(high),
    min(low),
    (array_agg(close ORDER BY "timestamp" DESC))[1],
    sum(volume),
    count(*)
FROM market_data
WHERE timeframe = 'M1' AND "timestamp" >= (
    SELECT coalesce(max("timestamp") + INTERVAL '1 hour', '-infinity') FROM market_data_h1_stored
)
GROUP BY 1, 2;

CREATE MATERIALIZED VIEW market_data_d1_stored AS
SELECT
    pair,
    date_bin('1 day', "timestamp", TIMESTAMPTZ '2000-01-01 00:00:00Z') AS "timestamp",
    (array_agg(open ORDER BY "timestamp"))[1] AS open,
    max(high) AS high,
    min(low) AS low,
    (array_agg(close ORDER BY "timestamp" DESC))[1] AS close,
    sum(volume) AS volume,
    count(*) AS bars
FROM market_data
WHERE timeframe = 'M1' AND "timestamp" < (
    SELECT date_bin('1 day', max("timestamp"), TIMESTAMPTZ '2000-01-01 00:00:00Z') - INTERVAL '3 days'
    FROM market_data
    WHERE timeframe = 'M1'
)
GROUP BY 1, 2;
CREATE UNIQUE INDEX market_data_d1_stored_key ON market_data_d1_stored (pair, "timestamp");
CREATE INDEX market_data_d1_stored_timestamp ON market_data_d1_stored ("timestamp");

CREATE VIEW market_data_d1 AS
SELECT pair, "timestamp", open, high, low, close, volume, bars FROM market_data_d1_stored
UNION ALL
SELECT
    pair,
    date_bin('1 day', "timestamp", TIMESTAMPTZ '2000-01-01 00:00:00Z'),
    (array_agg(open ORDER BY "timestamp"))[1],
    max(high),
    min(low),
    (array_agg(close ORDER BY "timestamp" DESC))[1],
    sum(volume),
    count(*)
FROM market_data
WHERE timeframe = 'M1' AND "timestamp" >= (
    SELECT coalesce(max("timestamp") + INTERVAL '1 day', '-infinity') FROM market_data_d1_stored
)
GROUP BY 1, 2;

COMMENT ON VIEW market_data_h1 IS
    'Bars of an hour, from M1. A bar that comes over a day late is seen after `sep-stream db refresh`.';
COMMENT ON COLUMN market_data_h1.pair IS 'Instrument.';
COMMENT ON COLUMN market_data_h1."timestamp" IS 'When the hour begins.';
COMMENT ON COLUMN market_data_h1.open IS 'First price.';
COMMENT ON COLUMN market_data_h1.high IS 'Highest price.';
COMMENT ON COLUMN market_data_h1.low IS 'Lowest price.';
COMMENT ON COLUMN market_data_h1.close IS 'Last price.';
COMMENT ON COLUMN market_data_h1.volume IS 'Sum of the bars'' volumes.';
COMMENT ON COLUMN market_data_h1.bars IS 'How many M1 bars there are.';
COMMENT ON VIEW market_data_d1 IS
    'Bars of a day (UTC), from M1. A bar that comes over three days late is seen after `sep-stream db refresh`.';
COMMENT ON COLUMN market_data_d1.pair IS 'Instrument.';
COMMENT ON COLUMN market_data_d1."timestamp" IS 'When the day begins.';
COMMENT ON COLUMN market_data_d1.open IS 'First price.';
COMMENT ON COLUMN market_data_d1.high IS 'Highest price.';
COMMENT ON COLUMN market_data_d1.low IS 'Lowest price.';
COMMENT ON COLUMN market_data_d1.close IS 'Last price.';
COMMENT ON COLUMN market_data_d1.volume IS 'Sum of the bars'' volumes.';
COMMENT ON COLUMN market_data_d1.bars IS 'How many M1 bars there are.';
COMMENT ON MATERIALIZED VIEW market_data_h1_stored IS 'What market_data_h1 need not compute anew: all but the last day.';
COMMENT ON MATERIALIZED VIEW market_data_d1_stored IS
    'What market_data_d1 need not compute anew: all but the last three days.';

GRANT SELECT ON market_data_h1, market_data_d1 TO sep_trading, sep_training, sep_read;
