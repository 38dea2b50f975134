-- What models say, the patterns behind it, and what came of it.

CREATE TABLE quantum_patterns (
    pattern_id uuid PRIMARY KEY,
    pair text,
    pattern_data bytea,
    confidence_score float8
);
COMMENT ON TABLE quantum_patterns IS
    'Damping paths behind signals that are not HOLD. A row with only its id stands for one that has yet to arrive.';
COMMENT ON COLUMN quantum_patterns.pattern_id IS 'Deterministic: the same window and model give the same id.';
COMMENT ON COLUMN quantum_patterns.pair IS 'Instrument; null until the pattern arrives.';
COMMENT ON COLUMN quantum_patterns.pattern_data IS
    'The path: 3K float32, little-endian; null until the pattern arrives.';
COMMENT ON COLUMN quantum_patterns.confidence_score IS
    '0 to 1; null until the pattern arrives. Wider than the mission''s DECIMAL(5,3): as the model calibrated it.';

CREATE TABLE signals (
    signal_id uuid PRIMARY KEY,
    pair text NOT NULL,
    timeframe text NOT NULL,
    anchor_time timestamptz NOT NULL,
    available_at timestamptz NOT NULL,
    direction text NOT NULL,
    reason text,
    confidence float8 NOT NULL,
    p_up float8 NOT NULL,
    expected_move float8 NOT NULL,
    gate_passed boolean NOT NULL,
    gate_failed jsonb NOT NULL,
    confirmed boolean NOT NULL,
    m5_signal_id uuid,
    m15_signal_id uuid,
    matches jsonb NOT NULL,
    model_id text NOT NULL,
    metrics_version text NOT NULL,
    bar_index bigint NOT NULL,
    bar_open_time timestamptz NOT NULL,
    bar_open numeric(18, 9) NOT NULL,
    bar_close numeric(18, 9) NOT NULL,
    bar_spread numeric(18, 9)
);
COMMENT ON TABLE signals IS 'What a model says of each window, HOLD included.';
COMMENT ON COLUMN signals.signal_id IS 'Deterministic: the same window and model give the same id.';
COMMENT ON COLUMN signals.pair IS 'Instrument.';
COMMENT ON COLUMN signals.timeframe IS 'Of the window: M1, M5 or M15.';
COMMENT ON COLUMN signals.anchor_time IS 'The window''s anchor: what comes after it is forecast.';
COMMENT ON COLUMN signals.available_at IS 'When the signal could be known at the earliest, in event time.';
COMMENT ON COLUMN signals.direction IS 'BUY, SELL or HOLD.';
COMMENT ON COLUMN signals.reason IS 'Of a HOLD: library or weight.';
COMMENT ON COLUMN signals.confidence IS '0 to 1, calibrated where the model is.';
COMMENT ON COLUMN signals.p_up IS 'Probability of a rise, before calibration.';
COMMENT ON COLUMN signals.expected_move IS 'In points.';
COMMENT ON COLUMN signals.gate_passed IS 'Whether the gate lets it through.';
COMMENT ON COLUMN signals.gate_failed IS 'The gate''s reasons that failed, in order.';
COMMENT ON COLUMN signals.confirmed IS 'Whether the signals of longer timeframes agree.';
COMMENT ON COLUMN signals.m5_signal_id IS 'The M5 signal that an M1 signal was compared with.';
COMMENT ON COLUMN signals.m15_signal_id IS 'The M15 signal that an M1 signal was compared with.';
COMMENT ON COLUMN signals.matches IS
    'The five best matches: row, anchor_time (epoch seconds), cosine, outcome (points).';
COMMENT ON COLUMN signals.model_id IS 'The model in force when the window closed.';
COMMENT ON COLUMN signals.metrics_version IS 'Of the definition of the metrics.';
COMMENT ON COLUMN signals.bar_index IS 'Of the bar that completed the window.';
COMMENT ON COLUMN signals.bar_open_time IS 'When that bar opened.';
COMMENT ON COLUMN signals.bar_open IS 'Its first price.';
COMMENT ON COLUMN signals.bar_close IS 'Its last price.';
COMMENT ON COLUMN signals.bar_spread IS 'ask - bid at its close; null where no quote told it.';

CREATE TABLE trading_results (
    trade_id uuid PRIMARY KEY,
    signal_id uuid NOT NULL,
    pattern_id uuid NOT NULL REFERENCES quantum_patterns,
    pair text NOT NULL,
    timeframe text NOT NULL,
    direction text NOT NULL,
    entry_time timestamptz NOT NULL,
    entry_price numeric(18, 9) NOT NULL,
    exit_time timestamptz NOT NULL,
    exit_price numeric(18, 9) NOT NULL,
    units numeric(18, 9) NOT NULL,
    points float8 NOT NULL,
    profit_loss numeric(38, 9) NOT NULL,
    spans_silence boolean NOT NULL
);
COMMENT ON TABLE trading_results IS 'Closed trades, on paper or by a trader.';
COMMENT ON COLUMN trading_results.trade_id IS 'Deterministic: the same signal gives the same id.';
COMMENT ON COLUMN trading_results.signal_id IS
    'The signal that was traded. No foreign key: it comes through a sink of its own, in any order.';
COMMENT ON COLUMN trading_results.pattern_id IS
    'The pattern behind it. Where it has yet to arrive, a trigger makes its row, which it then fills.';
COMMENT ON COLUMN trading_results.pair IS 'Instrument.';
COMMENT ON COLUMN trading_results.timeframe IS 'Of the signal: M1, M5 or M15.';
COMMENT ON COLUMN trading_results.direction IS 'BUY or SELL.';
COMMENT ON COLUMN trading_results.entry_time IS 'When the trade was entered, in event time.';
COMMENT ON COLUMN trading_results.entry_price IS 'Ask of a BUY, bid of a SELL, slippage included.';
COMMENT ON COLUMN trading_results.exit_time IS 'When it was left.';
COMMENT ON COLUMN trading_results.exit_price IS 'On the other side, slippage included.';
COMMENT ON COLUMN trading_results.units IS 'Size of the trade.';
COMMENT ON COLUMN trading_results.points IS 'Earned, after spread, slippage and commission.';
COMMENT ON COLUMN trading_results.profit_loss IS 'The same in the quote currency.';
COMMENT ON COLUMN trading_results.spans_silence IS 'Whether its horizon holds a silence of over an hour.';

-- Sinks deliver in any order; the foreign key holds all the same.
CREATE FUNCTION trading_results_await_pattern()
RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    INSERT INTO public.quantum_patterns (pattern_id) VALUES (NEW.pattern_id) ON CONFLICT DO NOTHING;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION trading_results_await_pattern IS 'Makes the row of a pattern that has yet to arrive.';
REVOKE EXECUTE ON FUNCTION trading_results_await_pattern FROM PUBLIC;

CREATE TRIGGER trading_results_await_pattern
BEFORE INSERT ON trading_results
FOR EACH ROW EXECUTE FUNCTION trading_results_await_pattern();

GRANT SELECT, INSERT, UPDATE ON quantum_patterns, signals, trading_results TO sep_trading;
GRANT SELECT ON quantum_patterns, signals, trading_results TO sep_read;
