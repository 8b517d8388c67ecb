-- CreateEnum
CREATE TYPE "severity" AS ENUM ('CRITICAL', 'HIGH', 'MEDIUM', 'LOW', 'INFO');

-- CreateEnum
CREATE TYPE "scanner_name" AS ENUM ('SECRETS', 'DEPENDENCIES', 'DOCKERFILE', 'TRIVY');

-- CreateEnum
CREATE TYPE "scan_verdict" AS ENUM ('PASSED', 'BLOCKED_BY_FINDINGS', 'BLOCKED_AS_INCOMPLETE');

-- AlterTable
ALTER TABLE "application" ADD COLUMN     "block_at_severity" "severity",
ADD COLUMN     "require_complete_scan" BOOLEAN NOT NULL DEFAULT false,
ADD COLUMN     "scan_key" UUID NOT NULL DEFAULT gen_random_uuid();

-- CreateTable
CREATE TABLE "security_scan" (
    "id" UUID NOT NULL,
    "deployment_id" UUID NOT NULL,
    "complete" BOOLEAN NOT NULL,
    "verdict" "scan_verdict" NOT NULL,
    "block_at_severity" "severity",
    "require_complete_scan" BOOLEAN NOT NULL,
    "scanners" JSONB NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "security_scan_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "finding" (
    "id" UUID NOT NULL,
    "scan_id" UUID NOT NULL,
    "application_id" UUID NOT NULL,
    "fingerprint" VARCHAR(64) NOT NULL,
    "scanner" "scanner_name" NOT NULL,
    "severity" "severity" NOT NULL,
    "rule" VARCHAR(200) NOT NULL,
    "title" VARCHAR(500) NOT NULL,
    "file" VARCHAR(1024),
    "line" INTEGER,
    "package_name" VARCHAR(300),
    "installed_version" VARCHAR(500),
    "fixed_version" VARCHAR(500),
    "advisory_id" VARCHAR(200),
    "advisory_url" VARCHAR(1024),
    "blocking" BOOLEAN NOT NULL DEFAULT false,

    CONSTRAINT "finding_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "known_finding" (
    "id" UUID NOT NULL,
    "application_id" UUID NOT NULL,
    "fingerprint" VARCHAR(64) NOT NULL,
    "first_seen_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "suppressed_at" TIMESTAMPTZ(3),
    "suppressed_by_id" UUID,
    "reason" VARCHAR(1000),
    "expires_at" TIMESTAMPTZ(3),

    CONSTRAINT "known_finding_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE UNIQUE INDEX "security_scan_deployment_id_key" ON "security_scan"("deployment_id");

-- CreateIndex
CREATE INDEX "finding_scan_id_severity_id_idx" ON "finding"("scan_id", "severity", "id");

-- CreateIndex
CREATE INDEX "finding_application_id_fingerprint_idx" ON "finding"("application_id", "fingerprint");

-- CreateIndex
CREATE UNIQUE INDEX "finding_scan_id_fingerprint_key" ON "finding"("scan_id", "fingerprint");

-- CreateIndex
CREATE UNIQUE INDEX "known_finding_application_id_fingerprint_key" ON "known_finding"("application_id", "fingerprint");

-- AddForeignKey
ALTER TABLE "security_scan" ADD CONSTRAINT "security_scan_deployment_id_fkey" FOREIGN KEY ("deployment_id") REFERENCES "deployment"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "finding" ADD CONSTRAINT "finding_scan_id_fkey" FOREIGN KEY ("scan_id") REFERENCES "security_scan"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "finding" ADD CONSTRAINT "finding_application_id_fingerprint_fkey" FOREIGN KEY ("application_id", "fingerprint") REFERENCES "known_finding"("application_id", "fingerprint") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "known_finding" ADD CONSTRAINT "known_finding_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- The phases of src/domains/deployments/model.ts: no other one is ever written.
ALTER TABLE "run" ADD CONSTRAINT "run_deployment_phase" CHECK ("kind" <> 'Deployment' OR "phase" IN (
  'PENDING', 'SECURITY_SCANNING', 'BUILDING', 'DEPLOYING', 'HEALTH_CHECKING', 'ROLLING_BACK',
  'DEPLOYED', 'FAILED', 'CANCELED', 'SUPERSEDED', 'ROLLED_BACK', 'ROLLBACK_FAILED'));
