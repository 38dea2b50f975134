-- Bars, in a partition for each year.

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
) PARTITION BY RANGE ("timestamp");

-- Bars come nearly in the order of time: a few pages of BRIN find a day in any partition.
CREATE INDEX market_data_timestamp ON market_data USING brin ("timestamp");

CREATE TABLE market_data_default PARTITION OF market_data DEFAULT;
COMMENT ON TABLE market_data_default IS
    'Bars of years that have no partition yet; market_data_add_year moves them out.';

CREATE FUNCTION market_data_missing_years(first_year integer DEFAULT 2000, years_ahead integer DEFAULT 2)
RETURNS SETOF integer
LANGUAGE sql STABLE
AS $$
    SELECT year
    FROM (
        SELECT generate_series(first_year, extract(year FROM now() AT TIME ZONE 'UTC')::integer + years_ahead)
        UNION
        SELECT DISTINCT extract(year FROM "timestamp" AT TIME ZONE 'UTC')::integer FROM market_data_default
    ) AS wanted (year)
    WHERE to_regclass('market_data_' || year) IS NULL
    ORDER BY year
$$;
COMMENT ON FUNCTION market_data_missing_years IS
    'Years that need a partition: of bars in the default one, and from the first to some years ahead of now.';

CREATE FUNCTION market_data_add_year(year integer)
RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    partition_name text := format('market_data_%s', year);
    year_begin timestamptz := make_timestamptz(year, 1, 1, 0, 0, 0, 'UTC');
    year_end timestamptz := make_timestamptz(year + 1, 1, 1, 0, 0, 0, 'UTC');
    moved bigint;
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE market_data INCLUDING ALL)', partition_name);
    -- From here no bar gets into the default partition that the new one should have.
    LOCK TABLE market_data_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format(
        'WITH moved AS (
            DELETE FROM market_data_default WHERE "timestamp" >= $1 AND "timestamp" < $2 RETURNING *
        ) INSERT INTO %I SELECT * FROM moved',
        partition_name
    ) USING year_begin, year_end;
    GET DIAGNOSTICS moved = ROW_COUNT;
    EXECUTE format(
        'ALTER TABLE market_data ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition_name, year_begin, year_end
    );
    RETURN moved;
END
$$;
COMMENT ON FUNCTION market_data_add_year IS
    'Makes the partition of a year, moves its bars out of the default one, and returns how many these were. Writers of '
    'other years go on; those of bars without a partition wait for the transaction.';
REVOKE EXECUTE ON FUNCTION market_data_missing_years, market_data_add_year FROM PUBLIC;

SELECT market_data_add_year(year) FROM market_data_missing_years() AS year;

COMMENT ON TABLE market_data IS
    'Closed bars, from the topic bars or loaded in bulk. A partition for each year (UTC); to delete old history, drop '
    'its partitions.';
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
