-- sep: no transaction
-- What queries look for. CONCURRENTLY: writers go on meanwhile.

CREATE INDEX CONCURRENTLY signals_by_time ON signals (pair, timeframe, anchor_time);
CREATE INDEX CONCURRENTLY trading_results_by_signal ON trading_results (signal_id);
CREATE INDEX CONCURRENTLY trading_results_by_pattern ON trading_results (pattern_id);
CREATE INDEX CONCURRENTLY trading_results_by_time ON trading_results (pair, timeframe, exit_time);
