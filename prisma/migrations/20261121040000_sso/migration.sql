-- AlterTable
ALTER TABLE "sso_connection" ADD COLUMN     "trust_email" BOOLEAN NOT NULL DEFAULT false;

-- CreateTable
CREATE TABLE "used_sign_in" (
    "id" UUID NOT NULL,
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "used_sign_in_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "used_sign_in_expires_at_idx" ON "used_sign_in"("expires_at");
