-- Bars, as a hypertable.

CREATE TABLE market_data (
    pair text NOT NULL,
    timeframe text NOT NULL,
    "timestamp" timestamptz NOT NULL,
    bar_index bigint NOT NULL,
    open numeric(18, 9) NOT NULL,
    high numeric(18, 9) NOT NULL,
    low numeric(18, 9) NOT NULL,
    close numeric(18, 9) NOT NULL,
    volume numeric(38, 9) NOT NULL,
    spread numeric(18, 9),
    PRIMARY KEY (pair, timeframe, "timestamp")
);

-- Five years of ten instruments are some 20 million bars: 60 chunks of 300 thousand.
SELECT create_hypertable('market_data', 'timestamp', chunk_time_interval => INTERVAL '30 days');

ALTER TABLE market_data SET (
    timescaledb.compress,
    timescaledb.compress_segmentby = 'pair, timeframe',
    timescaledb.compress_orderby = '"timestamp"'
);
SELECT add_compression_policy('market_data', INTERVAL '90 days');

-- Long enough to keep all there is. To keep less: alter_job() with another drop_after.
SELECT add_retention_policy('market_data', INTERVAL '100 years');

COMMENT ON TABLE market_data IS
    'Closed bars, from the topic bars or loaded in bulk. Compressed after 90 days; kept for 100 years.';
COMMENT ON COLUMN market_data.pair IS 'Instrument, as EUR/USD. Wider than the mission''s VARCHAR(8): futures contracts.';
COMMENT ON COLUMN market_data.timeframe IS 'M1, M5 or M15.';
COMMENT ON COLUMN market_data."timestamp" IS 'When the bar opens.';
COMMENT ON COLUMN market_data.bar_index IS '0, 1, 2, … per instrument and timeframe; gaps consume none.';
COMMENT ON COLUMN market_data.open IS 'First price. Wider than the mission''s DECIMAL(10,5): the wire''s nine decimals.';
COMMENT ON COLUMN market_data.high IS 'Highest price. Wider than the mission''s DECIMAL(10,5).';
COMMENT ON COLUMN market_data.low IS 'Lowest price. Wider than the mission''s DECIMAL(10,5).';
COMMENT ON COLUMN market_data.close IS 'Last price. Wider than the mission''s DECIMAL(10,5).';
COMMENT ON COLUMN market_data.volume IS 'Sum of the events'' volumes. Wider than the mission''s BIGINT: it has fractions.';
COMMENT ON COLUMN market_data.spread IS 'ask - bid at the close; null where no quote told it.';

GRANT SELECT, INSERT, UPDATE ON market_data TO sep_ingest;
GRANT SELECT ON market_data TO sep_trading, sep_training, sep_read;
