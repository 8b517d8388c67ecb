-- AlterEnum
ALTER TYPE "run_trigger" ADD VALUE 'AUTOMATIC_ROLLBACK';

-- The plain values go: SQL cannot seal them, and they are not to stay as they are. They are set again by
-- `setEnvironmentVariables`; workers of the version before do not run on this database.
-- AlterTable
ALTER TABLE "application" DROP COLUMN "environment",
ADD COLUMN     "crash_loop_restarts" INTEGER NOT NULL DEFAULT 5,
ADD COLUMN     "crash_loop_window_s" INTEGER NOT NULL DEFAULT 600,
ADD COLUMN     "environment_version" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "retained_releases" INTEGER;

-- AlterTable
ALTER TABLE "deployment" ADD COLUMN     "environment_version" INTEGER NOT NULL DEFAULT 0;

-- AlterTable
ALTER TABLE "release" ADD COLUMN     "crash_looped_at" TIMESTAMPTZ(3),
ADD COLUMN     "environment_version" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "restarts" INTEGER NOT NULL DEFAULT 0;

-- CreateTable
CREATE TABLE "activation" (
    "id" UUID NOT NULL,
    "application_id" UUID NOT NULL,
    "release_id" UUID NOT NULL,
    "deployment_id" UUID,
    "environment_version" INTEGER NOT NULL,
    "activated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "ended_at" TIMESTAMPTZ(3),

    CONSTRAINT "activation_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "environment_version" (
    "application_id" UUID NOT NULL,
    "version" INTEGER NOT NULL,
    "actor_id" UUID,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "environment_version_pkey" PRIMARY KEY ("application_id","version")
);

-- CreateTable
CREATE TABLE "environment_variable" (
    "id" UUID NOT NULL,
    "application_id" UUID NOT NULL,
    "name" VARCHAR(200) NOT NULL,
    "value" TEXT NOT NULL,
    "sensitive" BOOLEAN NOT NULL DEFAULT true,
    "actor_id" UUID,
    "since_version" INTEGER NOT NULL,
    "until_version" INTEGER,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "environment_variable_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "workspace_quota" (
    "workspace_id" UUID NOT NULL,
    "max_applications" INTEGER,
    "max_concurrent_deployments" INTEGER,
    "retained_releases" INTEGER,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "workspace_quota_pkey" PRIMARY KEY ("workspace_id")
);

-- CreateIndex
CREATE INDEX "activation_application_id_activated_at_id_idx" ON "activation"("application_id", "activated_at" DESC, "id");

-- CreateIndex
CREATE INDEX "activation_release_id_activated_at_idx" ON "activation"("release_id", "activated_at");

-- CreateIndex
CREATE INDEX "activation_deployment_id_idx" ON "activation"("deployment_id");

-- CreateIndex
CREATE UNIQUE INDEX "environment_variable_application_id_name_since_version_key" ON "environment_variable"("application_id", "name", "since_version");

-- AddForeignKey
ALTER TABLE "activation" ADD CONSTRAINT "activation_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "activation" ADD CONSTRAINT "activation_release_id_fkey" FOREIGN KEY ("release_id") REFERENCES "release"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "activation" ADD CONSTRAINT "activation_deployment_id_fkey" FOREIGN KEY ("deployment_id") REFERENCES "deployment"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "environment_version" ADD CONSTRAINT "environment_version_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "environment_variable" ADD CONSTRAINT "environment_variable_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "workspace_quota" ADD CONSTRAINT "workspace_quota_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- What is known of the time before: when a release served last.
INSERT INTO "activation" ("id", "application_id", "release_id", "deployment_id", "environment_version", "activated_at", "ended_at")
  SELECT gen_random_uuid(), "application_id", "id", "deployment_id", 0, "activated_at",
    CASE WHEN "status" = 'ACTIVE' THEN NULL ELSE coalesce("retired_at", "updated_at") END
  FROM "release" WHERE "activated_at" IS NOT NULL;
