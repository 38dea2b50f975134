-- What people ask first: do the streamed bars agree, how often is a model right, what did a day bring.

-- Both sorts of bars are stacked, not joined: a condition on the pair then reaches the tables below.
CREATE VIEW market_data_compared AS
SELECT
    pair,
    timeframe,
    "timestamp",
    max(open) FILTER (WHERE streamed) AS streamed_open,
    max(high) FILTER (WHERE streamed) AS streamed_high,
    max(low) FILTER (WHERE streamed) AS streamed_low,
    max(close) FILTER (WHERE streamed) AS streamed_close,
    max(volume) FILTER (WHERE streamed) AS streamed_volume,
    max(open) FILTER (WHERE NOT streamed) AS built_open,
    max(high) FILTER (WHERE NOT streamed) AS built_high,
    max(low) FILTER (WHERE NOT streamed) AS built_low,
    max(close) FILTER (WHERE NOT streamed) AS built_close,
    max(volume) FILTER (WHERE NOT streamed) AS built_volume,
    count(*) = 2
        AND min(open) = max(open)
        AND min(high) = max(high)
        AND min(low) = max(low)
        AND min(close) = max(close)
        AND min(volume) = max(volume) AS agree
FROM (
    SELECT pair, timeframe, "timestamp", open, high, low, close, volume, true AS streamed
    FROM market_data
    WHERE timeframe IN ('M5', 'M15')
    UNION ALL
    SELECT
        pair,
        longer.timeframe,
        date_bin(longer.duration, "timestamp", TIMESTAMPTZ '2000-01-01 00:00:00Z'),
        (array_agg(open ORDER BY "timestamp"))[1],
        max(high),
        min(low),
        (array_agg(close ORDER BY "timestamp" DESC))[1],
        sum(volume),
        false
    FROM market_data
    CROSS JOIN (VALUES ('M5', INTERVAL '5 minutes'), ('M15', INTERVAL '15 minutes')) AS longer (timeframe, duration)
    WHERE market_data.timeframe = 'M1'
    GROUP BY 1, 2, 3
) AS bars
GROUP BY pair, timeframe, "timestamp";
COMMENT ON VIEW market_data_compared IS
    'Streamed M5 and M15 bars beside the same built from M1. The newest may be there from M1 alone: a bar is streamed '
    'when it closes.';
COMMENT ON COLUMN market_data_compared.pair IS 'Instrument.';
COMMENT ON COLUMN market_data_compared.timeframe IS 'M5 or M15.';
COMMENT ON COLUMN market_data_compared."timestamp" IS 'When the bar opens.';
COMMENT ON COLUMN market_data_compared.streamed_open IS 'First price, streamed; null without such a bar.';
COMMENT ON COLUMN market_data_compared.streamed_high IS 'Highest price, streamed.';
COMMENT ON COLUMN market_data_compared.streamed_low IS 'Lowest price, streamed.';
COMMENT ON COLUMN market_data_compared.streamed_close IS 'Last price, streamed.';
COMMENT ON COLUMN market_data_compared.streamed_volume IS 'Volume, streamed.';
COMMENT ON COLUMN market_data_compared.built_open IS 'First price, from M1; null without such bars.';
COMMENT ON COLUMN market_data_compared.built_high IS 'Highest price, from M1.';
COMMENT ON COLUMN market_data_compared.built_low IS 'Lowest price, from M1.';
COMMENT ON COLUMN market_data_compared.built_close IS 'Last price, from M1.';
COMMENT ON COLUMN market_data_compared.built_volume IS 'Volume, from M1.';
COMMENT ON COLUMN market_data_compared.agree IS 'Whether both are there and equal.';

CREATE MATERIALIZED VIEW hit_rate_by_confidence AS
SELECT
    result.pair,
    result.timeframe,
    signal.model_id,
    least(floor(signal.confidence * 20), 19)::numeric(4, 2) / 20 AS confidence_from,
    count(*) AS trades,
    count(*) FILTER (WHERE result.points > 0) AS hits,
    (count(*) FILTER (WHERE result.points > 0))::float8 / count(*) AS hit_rate,
    avg(signal.confidence) AS confidence,
    sum(result.points) AS points
FROM trading_results AS result
INNER JOIN signals AS signal USING (signal_id)
GROUP BY 1, 2, 3, 4;
CREATE UNIQUE INDEX hit_rate_by_confidence_key
ON hit_rate_by_confidence (pair, timeframe, model_id, confidence_from);
COMMENT ON MATERIALIZED VIEW hit_rate_by_confidence IS
    'How often traded signals were right, by confidence in steps of 0.05; as of the last `sep-stream db refresh`.';
COMMENT ON COLUMN hit_rate_by_confidence.pair IS 'Instrument.';
COMMENT ON COLUMN hit_rate_by_confidence.timeframe IS 'Of the signals.';
COMMENT ON COLUMN hit_rate_by_confidence.model_id IS 'Whose signals they were.';
COMMENT ON COLUMN hit_rate_by_confidence.confidence_from IS 'The step holds confidences from here to 0.05 above.';
COMMENT ON COLUMN hit_rate_by_confidence.trades IS 'How many there were.';
COMMENT ON COLUMN hit_rate_by_confidence.hits IS 'How many earned something, after costs.';
COMMENT ON COLUMN hit_rate_by_confidence.hit_rate IS 'hits / trades.';
COMMENT ON COLUMN hit_rate_by_confidence.confidence IS 'Mean confidence: what the hit rate should be before costs.';
COMMENT ON COLUMN hit_rate_by_confidence.points IS 'Earned in all, after costs.';

CREATE MATERIALIZED VIEW results_by_day AS
SELECT
    pair,
    timeframe,
    (exit_time AT TIME ZONE 'UTC')::date AS day,
    count(*) AS trades,
    count(*) FILTER (WHERE points > 0) AS hits,
    sum(points) AS points,
    sum(profit_loss) AS profit_loss
FROM trading_results
GROUP BY 1, 2, 3;
CREATE UNIQUE INDEX results_by_day_key ON results_by_day (pair, timeframe, day);
COMMENT ON MATERIALIZED VIEW results_by_day IS
    'What the trades of a day brought; as of the last `sep-stream db refresh`.';
COMMENT ON COLUMN results_by_day.pair IS 'Instrument.';
COMMENT ON COLUMN results_by_day.timeframe IS 'Of the signals.';
COMMENT ON COLUMN results_by_day.day IS 'When the trades were left (UTC).';
COMMENT ON COLUMN results_by_day.trades IS 'How many there were.';
COMMENT ON COLUMN results_by_day.hits IS 'How many earned something, after costs.';
COMMENT ON COLUMN results_by_day.points IS 'Earned in all, after costs.';
COMMENT ON COLUMN results_by_day.profit_loss IS 'The same in the quote currency.';

GRANT SELECT ON market_data_compared TO sep_trading, sep_training, sep_read;
GRANT SELECT ON hit_rate_by_confidence, results_by_day TO sep_trading, sep_read;
