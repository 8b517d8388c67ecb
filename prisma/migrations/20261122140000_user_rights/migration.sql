-- A value for each person that is another one after every change of what their credentials may: whoever read rights
-- together with it may use them for as long as it stands there. It is random, so that no value comes back, not even when
-- the database is restored from a copy.

-- CreateTable
CREATE TABLE "user_rights" (
    "user_id" UUID NOT NULL,
    "version" UUID NOT NULL DEFAULT gen_random_uuid(),

    CONSTRAINT "user_rights_pkey" PRIMARY KEY ("user_id")
);

-- AddForeignKey
ALTER TABLE "user_rights" ADD CONSTRAINT "user_rights_user_id_fkey" FOREIGN KEY ("user_id") REFERENCES "app_user"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- Room for updates in place.
ALTER TABLE "user_rights" SET (fillfactor = 70);

-- What is read: the look-ups in src/kernel/auth/actors.ts. The triggers below are for each column that these read; all
-- write the version in the transaction of the change, so that nobody sees the one without the other. Transactions that
-- change the rights of one person wait for each other from then on; people are locked in the order of their ids, after
-- the rows themselves and before the heads of the event log. They count on READ COMMITTED, where each statement of a
-- trigger sees what was committed before it.

CREATE FUNCTION "rights_changed"("people" uuid[]) RETURNS void LANGUAGE sql AS $$
  UPDATE "user_rights" r SET "version" = gen_random_uuid()
  FROM (SELECT "user_id" FROM "user_rights" WHERE "user_id" = ANY("people") ORDER BY "user_id" FOR NO KEY UPDATE) l
  WHERE r."user_id" = l."user_id"
$$;

-- People. Who goes takes the row along: without one nothing is confirmed.
CREATE FUNCTION "rights_of_new_users"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO "user_rights" ("user_id") SELECT "id" FROM "added" ON CONFLICT DO NOTHING;
  RETURN NULL;
END
$$;
CREATE TRIGGER "user_rights_insert" AFTER INSERT ON "app_user" REFERENCING NEW TABLE AS "added"
  FOR EACH STATEMENT EXECUTE FUNCTION "rights_of_new_users"();

CREATE FUNCTION "rights_of_user"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM "rights_changed"(ARRAY[NEW."id"]);
  RETURN NULL;
END
$$;
CREATE TRIGGER "user_rights_update" AFTER UPDATE OF "email", "email_verified_at", "closed_at" ON "app_user" FOR EACH ROW
  WHEN ((OLD."email", OLD."email_verified_at", OLD."closed_at") IS DISTINCT FROM (NEW."email", NEW."email_verified_at", NEW."closed_at"))
  EXECUTE FUNCTION "rights_of_user"();

-- Sessions. A new one was never read; but while its provider is being switched off it waits, or whoever does that would
-- not see whose it is.
CREATE FUNCTION "rights_of_sessions"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM "rights_changed"(ARRAY(SELECT DISTINCT "user_id" FROM "before"));
  ELSE
    PERFORM "rights_changed"(ARRAY(
      SELECT DISTINCT p FROM "before" b FULL JOIN "after" a USING ("id"), LATERAL (VALUES (b."user_id"), (a."user_id")) v(p)
      WHERE (b."user_id", b."sso_connection_id", b."expires_at", b."ended_at")
        IS DISTINCT FROM (a."user_id", a."sso_connection_id", a."expires_at", a."ended_at")));
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER "user_rights_update" AFTER UPDATE ON "session" REFERENCING OLD TABLE AS "before" NEW TABLE AS "after"
  FOR EACH STATEMENT EXECUTE FUNCTION "rights_of_sessions"();
CREATE TRIGGER "user_rights_delete" AFTER DELETE ON "session" REFERENCING OLD TABLE AS "before"
  FOR EACH STATEMENT EXECUTE FUNCTION "rights_of_sessions"();

CREATE FUNCTION "rights_wait_for_connection"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM 1 FROM "sso_connection" WHERE "id" = NEW."sso_connection_id" FOR SHARE;
  RETURN NULL;
END
$$;
CREATE TRIGGER "user_rights_connection" AFTER INSERT OR UPDATE OF "sso_connection_id" ON "session" FOR EACH ROW
  WHEN (NEW."sso_connection_id" IS NOT NULL) EXECUTE FUNCTION "rights_wait_for_connection"();

-- API keys. A new one was never read.
CREATE FUNCTION "rights_of_keys"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM "rights_changed"(ARRAY(SELECT DISTINCT "created_by_id" FROM "before"));
  ELSE
    PERFORM "rights_changed"(ARRAY(
      SELECT DISTINCT p FROM "before" b FULL JOIN "after" a USING ("id"),
        LATERAL (VALUES (b."created_by_id"), (a."created_by_id")) v(p)
      WHERE (b."created_by_id", b."workspace_id", b."key_hash", b."role", b."scopes", b."expires_at", b."revoked_at")
        IS DISTINCT FROM (a."created_by_id", a."workspace_id", a."key_hash", a."role", a."scopes", a."expires_at", a."revoked_at")));
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER "user_rights_update" AFTER UPDATE ON "api_key" REFERENCING OLD TABLE AS "before" NEW TABLE AS "after"
  FOR EACH STATEMENT EXECUTE FUNCTION "rights_of_keys"();
CREATE TRIGGER "user_rights_delete" AFTER DELETE ON "api_key" REFERENCING OLD TABLE AS "before"
  FOR EACH STATEMENT EXECUTE FUNCTION "rights_of_keys"();

-- Memberships. While a workspace is being closed, or its providers are being enforced, a new one waits, or whoever does
-- that would not see whose it is.
CREATE FUNCTION "rights_of_memberships"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    PERFORM "rights_changed"(ARRAY(SELECT DISTINCT "user_id" FROM "before"));
  ELSIF TG_OP = 'INSERT' THEN
    PERFORM 1 FROM "workspace" WHERE "id" IN (SELECT "workspace_id" FROM "after") ORDER BY "id" FOR SHARE;
    PERFORM "rights_changed"(ARRAY(SELECT DISTINCT "user_id" FROM "after"));
  ELSE
    PERFORM 1 FROM "workspace" WHERE "id" IN (
      SELECT a."workspace_id" FROM "before" b RIGHT JOIN "after" a USING ("id")
      WHERE (b."user_id", b."workspace_id") IS DISTINCT FROM (a."user_id", a."workspace_id")) ORDER BY "id" FOR SHARE;
    PERFORM "rights_changed"(ARRAY(
      SELECT DISTINCT p FROM "before" b FULL JOIN "after" a USING ("id"), LATERAL (VALUES (b."user_id"), (a."user_id")) v(p)
      WHERE (b."user_id", b."workspace_id", b."role") IS DISTINCT FROM (a."user_id", a."workspace_id", a."role")));
  END IF;
  RETURN NULL;
END
$$;
CREATE TRIGGER "user_rights_insert" AFTER INSERT ON "membership" REFERENCING NEW TABLE AS "after"
  FOR EACH STATEMENT EXECUTE FUNCTION "rights_of_memberships"();
CREATE TRIGGER "user_rights_update" AFTER UPDATE ON "membership" REFERENCING OLD TABLE AS "before" NEW TABLE AS "after"
  FOR EACH STATEMENT EXECUTE FUNCTION "rights_of_memberships"();
CREATE TRIGGER "user_rights_delete" AFTER DELETE ON "membership" REFERENCING OLD TABLE AS "before"
  FOR EACH STATEMENT EXECUTE FUNCTION "rights_of_memberships"();

-- Workspaces; one that goes takes its memberships along.
CREATE FUNCTION "rights_of_workspace"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM "rights_changed"(ARRAY(SELECT "user_id" FROM "membership" WHERE "workspace_id" = NEW."id"));
  RETURN NULL;
END
$$;
CREATE TRIGGER "user_rights_update" AFTER UPDATE OF "deleted_at", "sso_enforced" ON "workspace" FOR EACH ROW
  WHEN ((OLD."deleted_at", OLD."sso_enforced") IS DISTINCT FROM (NEW."deleted_at", NEW."sso_enforced"))
  EXECUTE FUNCTION "rights_of_workspace"();

-- Providers; one that goes takes its sessions along.
CREATE FUNCTION "rights_of_connection"() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM "rights_changed"(ARRAY(SELECT DISTINCT "user_id" FROM "session" WHERE "sso_connection_id" = NEW."id"));
  RETURN NULL;
END
$$;
CREATE TRIGGER "user_rights_update" AFTER UPDATE OF "workspace_id", "disabled_at" ON "sso_connection" FOR EACH ROW
  WHEN ((OLD."workspace_id", OLD."disabled_at") IS DISTINCT FROM (NEW."workspace_id", NEW."disabled_at"))
  EXECUTE FUNCTION "rights_of_connection"();

-- Whoever was there before; a new one has the row by the trigger, which waits for this.
INSERT INTO "user_rights" ("user_id") SELECT "id" FROM "app_user" ON CONFLICT DO NOTHING;
