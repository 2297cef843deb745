-- What operators decided of a host; the hosts themselves are in the config.
CREATE TABLE fluid.hosts (
    id text PRIMARY KEY,
    created_at timestamptz NOT NULL,
    doc jsonb NOT NULL
);
