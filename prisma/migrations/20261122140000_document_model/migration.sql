-- CreateTable
CREATE TABLE "document_model_setting" (
    "workspace_id" UUID NOT NULL,
    "allowed" BOOLEAN NOT NULL,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "document_model_setting_pkey" PRIMARY KEY ("workspace_id")
);

-- AddForeignKey
ALTER TABLE "document_model_setting" ADD CONSTRAINT "document_model_setting_workspace_id_fkey" FOREIGN KEY ("workspace_id") REFERENCES "workspace"("id") ON DELETE CASCADE ON UPDATE CASCADE;
