-- AlterTable
ALTER TABLE "api_key" ADD COLUMN     "scopes" TEXT[] DEFAULT ARRAY['*']::TEXT[];

-- AlterTable
ALTER TABLE "app_user" DROP COLUMN "session_epoch",
ADD COLUMN     "closed_at" TIMESTAMPTZ(3),
ADD COLUMN     "email_verified_at" TIMESTAMPTZ(3);

-- AlterTable
ALTER TABLE "event" ADD COLUMN     "credential_id" UUID,
ADD COLUMN     "origin_id" UUID;

-- AlterTable
ALTER TABLE "workspace" ADD COLUMN     "deleted_at" TIMESTAMPTZ(3),
ADD COLUMN     "sso_enforced" BOOLEAN NOT NULL DEFAULT false;

-- CreateTable
CREATE TABLE "origin" (
    "id" UUID NOT NULL,
    "user_id" UUID,
    "address" VARCHAR(45) NOT NULL,
    "user_agent" VARCHAR(300) NOT NULL DEFAULT '',
    "last_seen_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "origin_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "session" (
    "id" UUID NOT NULL,
    "user_id" UUID NOT NULL,
    "method" VARCHAR(20) NOT NULL,
    "sso_connection_id" UUID,
    "address" VARCHAR(45),
    "user_agent" VARCHAR(300),
    "signed_in_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "last_seen_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,
    "ended_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "session_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "external_identity" (
    "id" UUID NOT NULL,
    "user_id" UUID NOT NULL,
    "provider" VARCHAR(300) NOT NULL,
    "subject" VARCHAR(255) NOT NULL,
    "token" TEXT,
    "scopes" TEXT[] DEFAULT ARRAY[]::TEXT[],
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "external_identity_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "sso_connection" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "name" VARCHAR(120) NOT NULL,
    "issuer" VARCHAR(300) NOT NULL,
    "client_id" VARCHAR(300) NOT NULL,
    "client_secret" TEXT,
    "provision_role" "role",
    "disabled_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "sso_connection_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "sso_domain" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "domain" VARCHAR(253) NOT NULL,
    "challenge" VARCHAR(80) NOT NULL,
    "verified_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "sso_domain_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "origin_user_id_idx" ON "origin"("user_id");

-- CreateIndex
CREATE INDEX "origin_last_seen_at_idx" ON "origin"("last_seen_at");

-- CreateIndex
CREATE INDEX "session_user_id_created_at_id_idx" ON "session"("user_id", "created_at" DESC, "id");

-- CreateIndex
CREATE INDEX "session_sso_connection_id_idx" ON "session"("sso_connection_id");

-- CreateIndex
CREATE INDEX "session_expires_at_idx" ON "session"("expires_at");

-- CreateIndex
CREATE INDEX "external_identity_user_id_idx" ON "external_identity"("user_id");

-- CreateIndex
CREATE UNIQUE INDEX "external_identity_provider_subject_key" ON "external_identity"("provider", "subject");

-- CreateIndex
CREATE INDEX "sso_connection_workspace_id_created_at_id_idx" ON "sso_connection"("workspace_id", "created_at" DESC, "id");

-- CreateIndex
CREATE INDEX "sso_domain_domain_idx" ON "sso_domain"("domain");

-- CreateIndex
CREATE UNIQUE INDEX "sso_domain_workspace_id_domain_key" ON "sso_domain"("workspace_id", "domain");

-- AddForeignKey
ALTER TABLE "origin" ADD CONSTRAINT "origin_user_id_fkey" FOREIGN KEY ("user_id") REFERENCES "app_user"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "session" ADD CONSTRAINT "session_user_id_fkey" FOREIGN KEY ("user_id") REFERENCES "app_user"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "session" ADD CONSTRAINT "session_sso_connection_id_fkey" FOREIGN KEY ("sso_connection_id") REFERENCES "sso_connection"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "external_identity" ADD CONSTRAINT "external_identity_user_id_fkey" FOREIGN KEY ("user_id") REFERENCES "app_user"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "sso_connection" ADD CONSTRAINT "sso_connection_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "sso_domain" ADD CONSTRAINT "sso_domain_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- The workspace of the server itself: its log, and the runs that belong to no tenant. No tenant can have its short name.
INSERT INTO "workspace" ("id", "name", "slug", "updated_at")
VALUES ('00000000-0000-7000-8000-000000000001', 'Instance', '_instance', CURRENT_TIMESTAMP);
INSERT INTO "event_head" ("workspace_id") VALUES ('00000000-0000-7000-8000-000000000001');
