-- CreateEnum
CREATE TYPE "inbox_status" AS ENUM ('OPEN', 'RESOLVED', 'DISMISSED');

-- CreateEnum
CREATE TYPE "alert_condition" AS ENUM ('UNHEALTHY', 'RESTARTS', 'MEMORY', 'CPU');

-- CreateTable
CREATE TABLE "inbox_item" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "kind" VARCHAR(60) NOT NULL,
    "subject_type" VARCHAR(60) NOT NULL,
    "subject_id" UUID NOT NULL,
    "title" VARCHAR(300) NOT NULL,
    "data" JSONB NOT NULL DEFAULT '{}',
    "status" "inbox_status" NOT NULL DEFAULT 'OPEN',
    "open_key" VARCHAR(200),
    "opened_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "closed_at" TIMESTAMPTZ(3),
    "closed_by_id" UUID,

    CONSTRAINT "inbox_item_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "metric_point" (
    "application_id" UUID NOT NULL,
    "span_s" INTEGER NOT NULL,
    "at" TIMESTAMPTZ(3) NOT NULL,
    "samples" INTEGER NOT NULL,
    "milli_cpus" DOUBLE PRECISION,
    "milli_cpus_most" DOUBLE PRECISION,
    "memory_bytes" DOUBLE PRECISION,
    "memory_bytes_most" DOUBLE PRECISION,
    "memory_limit_bytes" DOUBLE PRECISION,
    "disk_read_bytes" DOUBLE PRECISION,
    "disk_written_bytes" DOUBLE PRECISION,
    "network_received_bytes" DOUBLE PRECISION,
    "network_sent_bytes" DOUBLE PRECISION,
    "probes" INTEGER NOT NULL,
    "healthy" INTEGER NOT NULL,
    "latency_ms" DOUBLE PRECISION,
    "latency_ms_most" DOUBLE PRECISION,
    "missing" TEXT[],

    CONSTRAINT "metric_point_pkey" PRIMARY KEY ("application_id","span_s","at")
);

-- CreateTable
CREATE TABLE "alert_rule" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "application_id" UUID NOT NULL,
    "condition" "alert_condition" NOT NULL,
    "threshold" DOUBLE PRECISION NOT NULL,
    "window_s" INTEGER NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "alert_rule_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "inbox_item_workspace_id_status_opened_at_id_idx" ON "inbox_item"("workspace_id", "status", "opened_at" DESC, "id");

-- CreateIndex
CREATE INDEX "inbox_item_closed_by_id_idx" ON "inbox_item"("closed_by_id");

-- CreateIndex
CREATE UNIQUE INDEX "inbox_item_workspace_id_open_key_key" ON "inbox_item"("workspace_id", "open_key");

-- CreateIndex
CREATE INDEX "metric_point_span_s_at_idx" ON "metric_point"("span_s", "at");

-- CreateIndex
CREATE INDEX "alert_rule_workspace_id_id_idx" ON "alert_rule"("workspace_id", "id");

-- CreateIndex
CREATE UNIQUE INDEX "alert_rule_application_id_condition_key" ON "alert_rule"("application_id", "condition");

-- AddForeignKey
ALTER TABLE "inbox_item" ADD CONSTRAINT "inbox_item_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "inbox_item" ADD CONSTRAINT "inbox_item_closed_by_id_fkey" FOREIGN KEY ("closed_by_id") REFERENCES "app_user"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "metric_point" ADD CONSTRAINT "metric_point_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "alert_rule" ADD CONSTRAINT "alert_rule_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "alert_rule" ADD CONSTRAINT "alert_rule_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;
