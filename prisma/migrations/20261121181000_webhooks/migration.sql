-- CreateEnum
CREATE TYPE "repository_access" AS ENUM ('TOKEN', 'PERSON', 'INSTALLATION');

-- CreateEnum
CREATE TYPE "webhook_delivery_status" AS ENUM ('RECEIVED', 'PROCESSED', 'IGNORED', 'FAILED');

-- CreateEnum
CREATE TYPE "commit_state" AS ENUM ('PENDING', 'SUCCESS', 'FAILURE', 'ERROR');

-- AlterTable
ALTER TABLE "application" ADD COLUMN     "auto_deploy" BOOLEAN NOT NULL DEFAULT true;

-- CreateTable
CREATE TABLE "connected_repository" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "github_id" BIGINT NOT NULL,
    "full_name" VARCHAR(200) NOT NULL,
    "clone_url" VARCHAR(1024) NOT NULL,
    "url_key" VARCHAR(1024) NOT NULL,
    "is_private" BOOLEAN NOT NULL,
    "access" "repository_access" NOT NULL,
    "token" TEXT,
    "person_id" UUID,
    "installation_id" BIGINT,
    "webhook_secret" TEXT NOT NULL,
    "former_secret" TEXT,
    "former_until" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "connected_repository_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "webhook_delivery" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "repository_id" UUID,
    "guid" UUID NOT NULL,
    "event" VARCHAR(60) NOT NULL,
    "action" VARCHAR(60),
    "full_name" VARCHAR(200),
    "ref" VARCHAR(300),
    "status" "webhook_delivery_status" NOT NULL,
    "reason" VARCHAR(500),
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "payload" TEXT,
    "processed_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "webhook_delivery_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "push_deployment" (
    "delivery_id" UUID NOT NULL,
    "application_id" UUID NOT NULL,
    "deployment_id" UUID NOT NULL,
    "request_id" UUID NOT NULL,
    "received_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "push_deployment_pkey" PRIMARY KEY ("delivery_id","application_id")
);

-- CreateTable
CREATE TABLE "commit_status" (
    "id" UUID NOT NULL,
    "repository_id" UUID NOT NULL,
    "commit_sha" VARCHAR(64) NOT NULL,
    "state" "commit_state",
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "error" VARCHAR(500),
    "told_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "commit_status_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "connected_repository_workspace_id_created_at_id_idx" ON "connected_repository"("workspace_id", "created_at" DESC, "id");

-- CreateIndex
CREATE INDEX "connected_repository_github_id_installation_id_idx" ON "connected_repository"("github_id", "installation_id");

-- CreateIndex
CREATE UNIQUE INDEX "connected_repository_workspace_id_github_id_key" ON "connected_repository"("workspace_id", "github_id");

-- CreateIndex
CREATE UNIQUE INDEX "connected_repository_workspace_id_url_key_key" ON "connected_repository"("workspace_id", "url_key");

-- CreateIndex
CREATE INDEX "webhook_delivery_workspace_id_created_at_id_idx" ON "webhook_delivery"("workspace_id", "created_at" DESC, "id");

-- CreateIndex
CREATE INDEX "webhook_delivery_repository_id_idx" ON "webhook_delivery"("repository_id");

-- CreateIndex
CREATE INDEX "webhook_delivery_created_at_idx" ON "webhook_delivery"("created_at");

-- CreateIndex
CREATE UNIQUE INDEX "webhook_delivery_workspace_id_guid_key" ON "webhook_delivery"("workspace_id", "guid");

-- CreateIndex
CREATE INDEX "push_deployment_application_id_received_at_idx" ON "push_deployment"("application_id", "received_at");

-- CreateIndex
CREATE INDEX "push_deployment_deployment_id_idx" ON "push_deployment"("deployment_id");

-- CreateIndex
CREATE INDEX "commit_status_repository_id_idx" ON "commit_status"("repository_id");

-- AddForeignKey
ALTER TABLE "connected_repository" ADD CONSTRAINT "connected_repository_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "webhook_delivery" ADD CONSTRAINT "webhook_delivery_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "webhook_delivery" ADD CONSTRAINT "webhook_delivery_repository_id_fkey" FOREIGN KEY ("repository_id") REFERENCES "connected_repository"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "push_deployment" ADD CONSTRAINT "push_deployment_delivery_id_fkey" FOREIGN KEY ("delivery_id") REFERENCES "webhook_delivery"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "push_deployment" ADD CONSTRAINT "push_deployment_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "push_deployment" ADD CONSTRAINT "push_deployment_deployment_id_fkey" FOREIGN KEY ("deployment_id") REFERENCES "deployment"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "commit_status" ADD CONSTRAINT "commit_status_id_fkey" FOREIGN KEY ("id") REFERENCES "deployment"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "commit_status" ADD CONSTRAINT "commit_status_repository_id_fkey" FOREIGN KEY ("repository_id") REFERENCES "connected_repository"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- CreateIndex
CREATE INDEX "connected_repository_person_id_idx" ON "connected_repository"("person_id");

-- AddForeignKey
ALTER TABLE "connected_repository" ADD CONSTRAINT "connected_repository_person_id_fkey" FOREIGN KEY ("person_id") REFERENCES "app_user"("id") ON DELETE SET NULL ON UPDATE CASCADE;
