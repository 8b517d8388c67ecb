-- CreateTable
CREATE TABLE "mail" (
    "id" UUID NOT NULL,
    "recipient" TEXT NOT NULL,
    "content" TEXT,
    "sent_at" TIMESTAMPTZ(3),
    "refused_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "mail_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "mail_created_at_idx" ON "mail"("created_at");

-- CreateTable
CREATE TABLE "key_rotation" (
    "id" UUID NOT NULL,
    "key_id" VARCHAR(40) NOT NULL,
    "columns" JSONB NOT NULL DEFAULT '{}',

    CONSTRAINT "key_rotation_pkey" PRIMARY KEY ("id")
);

-- AddForeignKey
ALTER TABLE "key_rotation" ADD CONSTRAINT "key_rotation_id_fkey" FOREIGN KEY ("id") REFERENCES "run"("id") ON DELETE CASCADE ON UPDATE CASCADE;
