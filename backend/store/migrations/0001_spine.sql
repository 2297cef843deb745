-- The nouns are documents: key columns for what is looked up or must be unique, the rest in `doc`.

CREATE TABLE fluid.sandboxes (
    id text PRIMARY KEY,
    name text NOT NULL,
    phase text NOT NULL,
    purpose text NOT NULL,
    owner_uid bigint NOT NULL,
    agent_id text NOT NULL,
    job_id text NOT NULL,
    base_image text NOT NULL,
    host_name text NOT NULL,
    created_at timestamptz NOT NULL,
    doc jsonb NOT NULL
);
-- A name is free again once its sandbox is destroyed.
CREATE UNIQUE INDEX sandboxes_live_name ON fluid.sandboxes (name) WHERE phase <> 'destroyed';
CREATE INDEX sandboxes_by_phase ON fluid.sandboxes (phase, created_at);
CREATE INDEX sandboxes_by_owner ON fluid.sandboxes (owner_uid, created_at);

CREATE TABLE fluid.snapshots (
    id text PRIMARY KEY,
    sandbox_id text NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    doc jsonb NOT NULL,
    UNIQUE (sandbox_id, name)
);

-- Output is bytes: a guest prints NUL and anything else.
CREATE TABLE fluid.commands (
    id text PRIMARY KEY,
    sandbox_id text NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    doc jsonb NOT NULL,
    stdout bytea NOT NULL DEFAULT '',
    stderr bytea NOT NULL DEFAULT ''
);
CREATE INDEX commands_by_sandbox ON fluid.commands (sandbox_id, created_at);

CREATE TABLE fluid.changes (
    id text PRIMARY KEY,
    sandbox_id text NOT NULL,
    from_snapshot text NOT NULL,
    to_snapshot text NOT NULL,
    created_at timestamptz NOT NULL,
    doc jsonb NOT NULL
);
CREATE INDEX changes_by_sandbox ON fluid.changes (sandbox_id, from_snapshot, to_snapshot);

CREATE TABLE fluid.playbooks (
    id text PRIMARY KEY,
    name text NOT NULL,
    sandbox_id text NOT NULL,
    owner_uid bigint NOT NULL,
    created_at timestamptz NOT NULL,
    doc jsonb NOT NULL,
    UNIQUE (owner_uid, name)
);
CREATE INDEX playbooks_by_sandbox ON fluid.playbooks (sandbox_id);

CREATE TABLE fluid.approvals (
    id text PRIMARY KEY,
    sandbox_id text NOT NULL,
    playbook_id text NOT NULL,
    requester_uid bigint NOT NULL,
    state text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    doc jsonb NOT NULL
);
CREATE INDEX approvals_by_state ON fluid.approvals (state, created_at);

CREATE TABLE fluid.asks (
    id text PRIMARY KEY,
    sandbox_id text,
    requester_uid bigint NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    doc jsonb NOT NULL
);
CREATE INDEX asks_by_status ON fluid.asks (status, created_at);

CREATE TABLE fluid.runs (
    id text PRIMARY KEY,
    kind text NOT NULL,
    state text NOT NULL,
    approval_id text NOT NULL,
    playbook_id text NOT NULL,
    created_at timestamptz NOT NULL,
    doc jsonb NOT NULL
);
CREATE INDEX runs_by_approval ON fluid.runs (approval_id);
CREATE INDEX runs_by_state ON fluid.runs (state);

-- An answer that was given once under an Idempotency-Key is given again. `answer` is null while the first is at work.
CREATE TABLE fluid.keys (
    scope text NOT NULL,
    key text NOT NULL,
    request_sha256 text NOT NULL,
    status int,
    answer text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key)
);

CREATE TABLE fluid.events (
    seq bigserial PRIMARY KEY,
    at timestamptz NOT NULL,
    sandbox_id text NOT NULL,
    doc jsonb NOT NULL
);

-- The chain. `line` is what is hashed and what is shown; the other columns are made from it by PostgreSQL, so
-- that a search cannot be led astray without touching what is hashed.
CREATE TABLE fluid.audit (
    line text NOT NULL,
    hash text NOT NULL UNIQUE,
    seq bigint PRIMARY KEY GENERATED ALWAYS AS (((line::jsonb) ->> 'seq')::bigint) STORED,
    prev text NOT NULL GENERATED ALWAYS AS ((line::jsonb) ->> 'prev') STORED,
    at text NOT NULL GENERATED ALWAYS AS ((line::jsonb) ->> 'at') STORED,
    actor_uid bigint NOT NULL GENERATED ALWAYS AS (((line::jsonb) ->> 'actor_uid')::bigint) STORED,
    action text NOT NULL GENERATED ALWAYS AS ((line::jsonb) ->> 'action') STORED,
    noun text NOT NULL GENERATED ALWAYS AS ((line::jsonb) ->> 'noun') STORED,
    id text NOT NULL GENERATED ALWAYS AS ((line::jsonb) ->> 'id') STORED,
    sandbox_id text NOT NULL GENERATED ALWAYS AS ((line::jsonb) ->> 'sandbox_id') STORED,
    spool_id text UNIQUE GENERATED ALWAYS AS ((line::jsonb) #>> '{data,spool_id}') STORED
);
CREATE INDEX audit_by_sandbox ON fluid.audit (sandbox_id, seq);
CREATE INDEX audit_by_id ON fluid.audit (id, seq);

CREATE FUNCTION fluid.audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'fluid.audit is append-only: % refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_no_edit BEFORE UPDATE OR DELETE ON fluid.audit
    FOR EACH ROW EXECUTE FUNCTION fluid.audit_is_append_only();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON fluid.audit
    FOR EACH STATEMENT EXECUTE FUNCTION fluid.audit_is_append_only();

-- The chain grows at its end only. AFTER, because generated columns are not there before.
CREATE FUNCTION fluid.audit_follows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.seq = 1 AND NEW.prev = '' THEN
        RETURN NULL;
    END IF;
    PERFORM 1 FROM fluid.audit WHERE seq = NEW.seq - 1 AND hash = NEW.prev;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'fluid.audit: row % does not follow the row before it', NEW.seq
            USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER audit_chain AFTER INSERT ON fluid.audit
    FOR EACH ROW EXECUTE FUNCTION fluid.audit_follows();

REVOKE UPDATE, DELETE, TRUNCATE ON fluid.audit FROM PUBLIC, CURRENT_USER;
