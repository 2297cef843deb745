-- Manifests in pieces, each kept once whoever shares it. PostgreSQL itself refuses to let go of a piece that a
-- manifest is made of.
CREATE TABLE fluid.manifest_pieces (
    sha256 bytea PRIMARY KEY,
    data bytea NOT NULL
);
ALTER TABLE fluid.manifest_pieces ALTER COLUMN data SET STORAGE EXTERNAL; -- compressed already

CREATE TABLE fluid.manifests (
    sha256 text PRIMARY KEY,
    names bigint NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE fluid.manifest_parts (
    manifest text NOT NULL REFERENCES fluid.manifests ON DELETE CASCADE,
    at int NOT NULL,
    first bytea NOT NULL,
    piece bytea NOT NULL REFERENCES fluid.manifest_pieces,
    PRIMARY KEY (manifest, at)
);
CREATE INDEX manifest_parts_by_piece ON fluid.manifest_parts (piece);
CREATE INDEX snapshots_by_manifest ON fluid.snapshots ((doc ->> 'manifest_sha256'));
