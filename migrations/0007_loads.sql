-- How far history has been loaded in bulk: a load that was cut off is continued, a finished one is not repeated.

CREATE TABLE market_data_loads (
    load_id text NOT NULL,
    chunk integer NOT NULL,
    bars integer NOT NULL,
    is_last boolean NOT NULL,
    source text NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (load_id, chunk)
);
COMMENT ON TABLE market_data_loads IS
    'Chunks of bars loaded in bulk (`sep-stream db load`), each written in the transaction that stored its bars.';
COMMENT ON COLUMN market_data_loads.load_id IS
    'SHA-256 of the input: of the files'' content and all that its bars depend on besides.';
COMMENT ON COLUMN market_data_loads.chunk IS '0, 1, 2, … in the order of the input.';
COMMENT ON COLUMN market_data_loads.bars IS 'How many bars it has.';
COMMENT ON COLUMN market_data_loads.is_last IS 'Stored when all others were: the load is finished.';
COMMENT ON COLUMN market_data_loads.source IS 'What the input was called.';
COMMENT ON COLUMN market_data_loads.stored_at IS 'When.';

GRANT SELECT, INSERT ON market_data_loads TO sep_ingest;
GRANT SELECT ON market_data_loads TO sep_read;
