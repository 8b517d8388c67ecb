-- CreateEnum
CREATE TYPE "preview_approval" AS ENUM ('ALWAYS', 'FORKS');

-- CreateEnum
CREATE TYPE "preview_state" AS ENUM ('AWAITING_APPROVAL', 'AWAITING_ROOM', 'ACTIVE', 'REJECTED', 'EXPIRED', 'CLOSED');

-- CreateTable
CREATE TABLE "preview_policy" (
    "application_id" UUID NOT NULL,
    "approval" "preview_approval" NOT NULL DEFAULT 'ALWAYS',
    "max_previews" INTEGER NOT NULL DEFAULT 5,
    "max_age_h" INTEGER NOT NULL DEFAULT 168,
    "forks_variables" BOOLEAN NOT NULL DEFAULT false,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "preview_policy_pkey" PRIMARY KEY ("application_id")
);

-- CreateTable
CREATE TABLE "preview_variable" (
    "id" UUID NOT NULL,
    "application_id" UUID NOT NULL,
    "name" VARCHAR(200) NOT NULL,
    "value" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "preview_variable_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "preview" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "of_id" UUID NOT NULL,
    "application_id" UUID,
    "github_id" BIGINT NOT NULL,
    "number" INTEGER NOT NULL,
    "title" VARCHAR(200) NOT NULL,
    "state" "preview_state" NOT NULL,
    "reason" VARCHAR(500),
    "head_sha" VARCHAR(64) NOT NULL,
    "head_before" VARCHAR(64),
    "head_ref" VARCHAR(300) NOT NULL,
    "is_fork" BOOLEAN NOT NULL,
    "approved_sha" VARCHAR(64),
    "approved_by_id" UUID,
    "approved_at" TIMESTAMPTZ(3),
    "pull_updated_at" TIMESTAMPTZ(3) NOT NULL,
    "deployed_at" TIMESTAMPTZ(3),
    "closed_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "preview_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE UNIQUE INDEX "preview_variable_application_id_name_key" ON "preview_variable"("application_id", "name");

-- CreateIndex
CREATE UNIQUE INDEX "preview_application_id_key" ON "preview"("application_id");

-- CreateIndex
CREATE INDEX "preview_of_id_created_at_id_idx" ON "preview"("of_id", "created_at" DESC, "id");

-- CreateIndex
CREATE INDEX "preview_of_id_state_idx" ON "preview"("of_id", "state");

-- CreateIndex
CREATE INDEX "preview_workspace_id_github_id_number_idx" ON "preview"("workspace_id", "github_id", "number");

-- CreateIndex
CREATE INDEX "preview_state_updated_at_idx" ON "preview"("state", "updated_at");

-- CreateIndex
CREATE UNIQUE INDEX "preview_of_id_github_id_number_key" ON "preview"("of_id", "github_id", "number");

-- AddForeignKey
ALTER TABLE "preview_policy" ADD CONSTRAINT "preview_policy_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "preview_variable" ADD CONSTRAINT "preview_variable_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "preview" ADD CONSTRAINT "preview_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "preview" ADD CONSTRAINT "preview_of_id_fkey" FOREIGN KEY ("of_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "preview" ADD CONSTRAINT "preview_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE SET NULL ON UPDATE CASCADE;

ALTER TABLE "preview" ADD CONSTRAINT "preview_number_check" CHECK ("number" > 0);
ALTER TABLE "preview_policy" ADD CONSTRAINT "preview_policy_bounds_check" CHECK ("max_previews" > 0 AND "max_age_h" > 0);
