-- CreateEnum
CREATE TYPE "model_advice" AS ENUM ('OFF', 'NOT_ALLOWED', 'LATER', 'LIMITED', 'ANSWERED', 'FAILED');

-- CreateEnum
CREATE TYPE "recommendation_source" AS ENUM ('RULES', 'MODEL');

-- CreateTable
CREATE TABLE "advice" (
    "deployment_id" UUID NOT NULL,
    "made_at" TIMESTAMPTZ(3) NOT NULL,
    "is_final" BOOLEAN NOT NULL,
    "model" "model_advice" NOT NULL,
    "model_reason" VARCHAR(300),

    CONSTRAINT "advice_pkey" PRIMARY KEY ("deployment_id")
);

-- CreateTable
CREATE TABLE "recommendation" (
    "id" UUID NOT NULL,
    "deployment_id" UUID NOT NULL,
    "source" "recommendation_source" NOT NULL,
    "made_by" VARCHAR(200) NOT NULL,
    "severity" "severity" NOT NULL,
    "title" VARCHAR(200) NOT NULL,
    "text" VARCHAR(2000) NOT NULL,
    "evidence" JSONB NOT NULL,

    CONSTRAINT "recommendation_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "advice_setting" (
    "workspace_id" UUID NOT NULL,
    "model_allowed" BOOLEAN NOT NULL,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "advice_setting_pkey" PRIMARY KEY ("workspace_id")
);

-- CreateIndex
CREATE INDEX "advice_made_at_idx" ON "advice"("made_at");

-- CreateIndex
CREATE INDEX "recommendation_deployment_id_severity_id_idx" ON "recommendation"("deployment_id", "severity", "id");

-- AddForeignKey
ALTER TABLE "advice" ADD CONSTRAINT "advice_deployment_id_fkey" FOREIGN KEY ("deployment_id") REFERENCES "deployment"("id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "recommendation" ADD CONSTRAINT "recommendation_deployment_id_fkey" FOREIGN KEY ("deployment_id") REFERENCES "advice"("deployment_id") ON DELETE CASCADE ON UPDATE CASCADE;

-- AddForeignKey
ALTER TABLE "advice_setting" ADD CONSTRAINT "advice_setting_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;
