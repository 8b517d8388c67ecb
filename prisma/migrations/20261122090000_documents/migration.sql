-- CreateEnum
CREATE TYPE "document_format" AS ENUM ('CSV', 'TSV', 'XLSX', 'XLS', 'PDF', 'DOCX', 'HTML', 'JSON_LINES');

-- CreateEnum
CREATE TYPE "document_status" AS ENUM ('AVAILABLE', 'QUARANTINED');

-- CreateEnum
CREATE TYPE "document_source" AS ENUM ('UPLOAD', 'EXPORT');

-- CreateEnum
CREATE TYPE "cell_type" AS ENUM ('TEXT', 'INTEGER', 'DECIMAL', 'BOOLEAN', 'DATE', 'DATETIME', 'EMPTY');

-- CreateEnum
CREATE TYPE "export_format" AS ENUM ('CSV', 'XLSX', 'JSON_LINES');

-- CreateTable
CREATE TABLE "document" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "artifact_id" UUID NOT NULL,
    "name" VARCHAR(255) NOT NULL,
    "format" "document_format",
    "content_type" VARCHAR(120) NOT NULL,
    "status" "document_status" NOT NULL DEFAULT 'AVAILABLE',
    "problem" VARCHAR(60),
    "source" "document_source" NOT NULL DEFAULT 'UPLOAD',
    "size_bytes" BIGINT NOT NULL,
    "sha256" CHAR(64) NOT NULL,
    "created_by_id" UUID,
    "removal_asked_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "document_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "document_retention" (
    "workspace_id" UUID NOT NULL,
    "days" INTEGER NOT NULL,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "document_retention_pkey" PRIMARY KEY ("workspace_id")
);

-- CreateTable
CREATE TABLE "extraction_configuration" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "name" VARCHAR(120) NOT NULL,
    "version" INTEGER NOT NULL DEFAULT 1,
    "archived_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "extraction_configuration_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "extraction_configuration_version" (
    "configuration_id" UUID NOT NULL,
    "version" INTEGER NOT NULL,
    "definition" JSONB NOT NULL,
    "created_by_id" UUID,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "extraction_configuration_version_pkey" PRIMARY KEY ("configuration_id","version")
);

-- CreateTable
CREATE TABLE "extraction_job" (
    "id" UUID NOT NULL,
    "document_id" UUID NOT NULL,
    "configuration_id" UUID,
    "configuration_version" INTEGER,
    "extractor" VARCHAR(60),
    "units_done" INTEGER NOT NULL DEFAULT 0,
    "units_total" INTEGER,
    "unit" VARCHAR(10),
    "error_code" VARCHAR(60),
    "table_count" INTEGER NOT NULL DEFAULT 0,
    "row_count" BIGINT NOT NULL DEFAULT 0,
    "cell_count" BIGINT NOT NULL DEFAULT 0,
    "review_count" BIGINT NOT NULL DEFAULT 0,
    "warnings" JSONB NOT NULL DEFAULT '[]',
    "reviewed_by_id" UUID,

    CONSTRAINT "extraction_job_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "extracted_table" (
    "id" UUID NOT NULL,
    "workspace_id" UUID NOT NULL,
    "job_id" UUID NOT NULL,
    "document_id" UUID NOT NULL,
    "position" INTEGER NOT NULL,
    "name" VARCHAR(255) NOT NULL,
    "place" JSONB,
    "complete" BOOLEAN NOT NULL DEFAULT false,
    "row_count" INTEGER NOT NULL DEFAULT 0,
    "column_count" INTEGER NOT NULL DEFAULT 0,
    "cell_count" INTEGER NOT NULL DEFAULT 0,
    "confidence_min" DOUBLE PRECISION,
    "confidence_mean" DOUBLE PRECISION,
    "review_count" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "extracted_table_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "extracted_column" (
    "table_id" UUID NOT NULL,
    "position" SMALLINT NOT NULL,
    "name" VARCHAR(255) NOT NULL,
    "type" "cell_type" NOT NULL,

    CONSTRAINT "extracted_column_pkey" PRIMARY KEY ("table_id","position")
);

-- CreateTable
CREATE TABLE "extracted_cell" (
    "table_id" UUID NOT NULL,
    "column" SMALLINT NOT NULL,
    "row" INTEGER NOT NULL,
    "type" "cell_type" NOT NULL,
    "text" TEXT NOT NULL,
    "value" TEXT,
    "number" DECIMAL,
    "confidence" REAL NOT NULL,
    "note" VARCHAR(40),
    "citation" JSONB NOT NULL,
    "needs_review" BOOLEAN NOT NULL DEFAULT false,
    "version" SMALLINT NOT NULL DEFAULT 0,

    CONSTRAINT "extracted_cell_pkey" PRIMARY KEY ("table_id","column","row")
);

-- CreateTable
CREATE TABLE "cell_correction" (
    "id" UUID NOT NULL,
    "table_id" UUID NOT NULL,
    "document_id" UUID NOT NULL,
    "column" SMALLINT NOT NULL,
    "row" INTEGER NOT NULL,
    "version" SMALLINT NOT NULL,
    "from_text" TEXT NOT NULL,
    "to_text" TEXT NOT NULL,
    "extracted_text" TEXT NOT NULL,
    "citation" JSONB NOT NULL,
    "column_type" "cell_type" NOT NULL,
    "type" "cell_type" NOT NULL,
    "value" TEXT,
    "number" DECIMAL,
    "reason" VARCHAR(1000),
    "carried_from_id" UUID,
    "actor_id" UUID,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "cell_correction_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "table_export" (
    "id" UUID NOT NULL,
    "table_id" UUID,
    "job_id" UUID NOT NULL,
    "format" "export_format" NOT NULL,
    "document_id" UUID,

    CONSTRAINT "table_export_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE UNIQUE INDEX "document_artifact_id_key" ON "document"("artifact_id");

-- CreateIndex
CREATE INDEX "document_workspace_id_created_at_id_idx" ON "document"("workspace_id", "created_at" DESC, "id");

-- CreateIndex
CREATE INDEX "document_workspace_id_sha256_idx" ON "document"("workspace_id", "sha256");

-- CreateIndex
CREATE INDEX "document_created_by_id_idx" ON "document"("created_by_id");

-- CreateIndex
CREATE INDEX "extraction_configuration_workspace_id_created_at_id_idx" ON "extraction_configuration"("workspace_id", "created_at" DESC, "id");

-- CreateIndex
CREATE INDEX "extraction_configuration_version_created_by_id_idx" ON "extraction_configuration_version"("created_by_id");

-- CreateIndex
CREATE INDEX "extraction_job_document_id_id_idx" ON "extraction_job"("document_id", "id" DESC);

-- CreateIndex
CREATE INDEX "extraction_job_configuration_id_id_idx" ON "extraction_job"("configuration_id", "id" DESC);

-- CreateIndex
CREATE INDEX "extraction_job_reviewed_by_id_idx" ON "extraction_job"("reviewed_by_id");

-- CreateIndex
CREATE INDEX "extracted_table_document_id_id_idx" ON "extracted_table"("document_id", "id");

-- CreateIndex
CREATE INDEX "extracted_table_workspace_id_idx" ON "extracted_table"("workspace_id");

-- CreateIndex
CREATE UNIQUE INDEX "extracted_table_job_id_position_key" ON "extracted_table"("job_id", "position");

-- CreateIndex
CREATE INDEX "cell_correction_document_id_id_idx" ON "cell_correction"("document_id", "id" DESC);

-- CreateIndex
CREATE INDEX "cell_correction_actor_id_idx" ON "cell_correction"("actor_id");

-- CreateIndex
CREATE UNIQUE INDEX "cell_correction_table_id_column_row_version_key" ON "cell_correction"("table_id", "column", "row", "version");

-- CreateIndex
CREATE UNIQUE INDEX "table_export_document_id_key" ON "table_export"("document_id");

-- CreateIndex
CREATE INDEX "table_export_table_id_idx" ON "table_export"("table_id");

-- CreateIndex
CREATE INDEX "table_export_job_id_idx" ON "table_export"("job_id");

-- AddForeignKey
ALTER TABLE "document" ADD CONSTRAINT "document_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "document" ADD CONSTRAINT "document_artifact_id_fkey" FOREIGN KEY ("artifact_id") REFERENCES "artifact"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "document" ADD CONSTRAINT "document_created_by_id_fkey" FOREIGN KEY ("created_by_id") REFERENCES "app_user"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "document_retention" ADD CONSTRAINT "document_retention_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extraction_configuration" ADD CONSTRAINT "extraction_configuration_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extraction_configuration_version" ADD CONSTRAINT "extraction_configuration_version_configuration_id_fkey" FOREIGN KEY ("configuration_id") REFERENCES "extraction_configuration"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extraction_configuration_version" ADD CONSTRAINT "extraction_configuration_version_created_by_id_fkey" FOREIGN KEY ("created_by_id") REFERENCES "app_user"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extraction_job" ADD CONSTRAINT "extraction_job_id_fkey" FOREIGN KEY ("id") REFERENCES "run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extraction_job" ADD CONSTRAINT "extraction_job_document_id_fkey" FOREIGN KEY ("document_id") REFERENCES "document"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extraction_job" ADD CONSTRAINT "extraction_job_configuration_id_fkey" FOREIGN KEY ("configuration_id") REFERENCES "extraction_configuration"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extraction_job" ADD CONSTRAINT "extraction_job_reviewed_by_id_fkey" FOREIGN KEY ("reviewed_by_id") REFERENCES "app_user"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extracted_table" ADD CONSTRAINT "extracted_table_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extracted_table" ADD CONSTRAINT "extracted_table_job_id_fkey" FOREIGN KEY ("job_id") REFERENCES "extraction_job"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extracted_table" ADD CONSTRAINT "extracted_table_document_id_fkey" FOREIGN KEY ("document_id") REFERENCES "document"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extracted_column" ADD CONSTRAINT "extracted_column_table_id_fkey" FOREIGN KEY ("table_id") REFERENCES "extracted_table"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "extracted_cell" ADD CONSTRAINT "extracted_cell_table_id_fkey" FOREIGN KEY ("table_id") REFERENCES "extracted_table"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "cell_correction" ADD CONSTRAINT "cell_correction_table_id_fkey" FOREIGN KEY ("table_id") REFERENCES "extracted_table"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "cell_correction" ADD CONSTRAINT "cell_correction_actor_id_fkey" FOREIGN KEY ("actor_id") REFERENCES "app_user"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "table_export" ADD CONSTRAINT "table_export_id_fkey" FOREIGN KEY ("id") REFERENCES "run"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "table_export" ADD CONSTRAINT "table_export_table_id_fkey" FOREIGN KEY ("table_id") REFERENCES "extracted_table"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "table_export" ADD CONSTRAINT "table_export_job_id_fkey" FOREIGN KEY ("job_id") REFERENCES "extraction_job"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "table_export" ADD CONSTRAINT "table_export_document_id_fkey" FOREIGN KEY ("document_id") REFERENCES "document"("id") ON DELETE SET NULL ON UPDATE CASCADE;

-- A configuration that was put away leaves its name to another one.
CREATE UNIQUE INDEX "extraction_configuration_name" ON "extraction_configuration" ("workspace_id", "name") WHERE "archived_at" IS NULL;

-- What waits for a person is a small part of the cells.
CREATE INDEX "extracted_cell_review" ON "extracted_cell" ("table_id", "row", "column") WHERE "needs_review";

ALTER TABLE "document_retention" ADD CONSTRAINT "document_retention_days" CHECK ("days" BETWEEN 1 AND 36500);

-- The phases of src/domains/documents/model.ts: no other one is ever written.
ALTER TABLE "run" ADD CONSTRAINT "run_extraction_job_phase" CHECK ("kind" <> 'ExtractionJob' OR "phase" IN (
  'PENDING', 'RUNNING', 'PERSISTING', 'NEEDS_REVIEW', 'SUCCEEDED', 'FAILED', 'CANCELED'
));
ALTER TABLE "run" ADD CONSTRAINT "run_table_export_phase" CHECK ("kind" <> 'TableExport' OR "phase" IN (
  'PENDING', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELED'
));
