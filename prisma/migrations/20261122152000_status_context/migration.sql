-- CreateTable
CREATE TABLE "status_context" (
    "application_id" UUID NOT NULL,
    "github_id" BIGINT NOT NULL,
    "name" VARCHAR(200) NOT NULL,
    "context" VARCHAR(400) NOT NULL,
    "key" VARCHAR(400) NOT NULL,

    CONSTRAINT "status_context_pkey" PRIMARY KEY ("application_id")
);

-- CreateIndex
CREATE UNIQUE INDEX "status_context_github_id_key_key" ON "status_context"("github_id", "key");

-- AddForeignKey
ALTER TABLE "status_context" ADD CONSTRAINT "status_context_application_id_fkey" FOREIGN KEY ("application_id") REFERENCES "application"("id") ON DELETE CASCADE ON UPDATE CASCADE;
