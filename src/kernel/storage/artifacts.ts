import { z } from 'zod';
import { service } from '../app.ts';
import type { Actor } from '../auth/actor.ts';
import { authorize } from '../auth/policy.ts';
import { system } from '../auth/actor.ts';
import { defineEvent } from '../events/define.ts';
import { newId } from '../ids.ts';
import { parse } from '../input.ts';
import { runPolicy } from '../runs/policy.ts';
import { isContentType, type SignedUrl } from './signed-urls.ts';
import type { StoredBlob } from './store.ts';

export const artifactReady = defineEvent('artifact.ready', {
  subject: 'Artifact',
  description: 'Its bytes have arrived and were verified.',
});

/** How long a signed address is good, seconds. */
const urlTtlS = 900;

const NewUpload = (maxBytes: number) =>
  z.object({
    workspaceId: z.string(),
    name: z.string().min(1).max(255),
    contentType: z.string().refine(isContentType, 'is not a media type'),
    // The scalar gives a number where a number can hold it.
    sizeBytes: z
      .union([z.bigint(), z.int()])
      .transform(BigInt)
      .refine((size) => size >= 1n && size <= BigInt(maxBytes), `must be from 1 to ${maxBytes}`),
    sha256: z.string().regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits'),
  });

/** The only writer of artifact. */
export const Artifacts = service('artifacts', (app) => ({
  /**
   * Announces a file and gives the address to put its bytes to.
   * @throws {ValidationError} {NotFound} {Forbidden}
   */
  async createUpload(actor: Actor, raw: unknown): Promise<{ id: string; upload: SignedUrl }> {
    const input = parse(NewUpload(app.limits.maxUploadBytes), raw);
    authorize(actor, runPolicy.verbs.createUpload, input.workspaceId);
    const id = newId();
    await app.db.artifact.create({ data: { id, ...input, createdById: actor.userId } });
    const upload = app.storageUrls.sign(
      {
        method: 'PUT',
        key: id,
        sizeBytes: Number(input.sizeBytes),
        sha256: input.sha256,
        contentType: input.contentType,
      },
      urlTtlS,
    );
    return { id, upload };
  },

  /** The bytes are stored. Safe to run twice. */
  async uploaded(id: string, stored: StoredBlob): Promise<void> {
    // Bytes that came after their workspace was closed: nothing else would find them.
    if ((await app.db.artifact.count({ where: { id, workspace: { deletedAt: null } } })) === 0) {
      await app.blobs.remove(id);
      return;
    }
    await app.transact(system, async (tx) => {
      const { count } = await tx.db.artifact.updateMany({
        where: { id, status: 'PENDING', sha256: stored.sha256, workspace: { deletedAt: null } },
        data: { status: 'READY', sizeBytes: BigInt(stored.sizeBytes) },
      });
      if (count === 0) return;
      const artifact = await tx.db.artifact.findUniqueOrThrow({ where: { id } });
      tx.append({ type: artifactReady, workspaceId: artifact.workspaceId, subjectId: id });
    });
  },

  /** A short-lived address of a file's bytes; null while they have not arrived. */
  downloadUrl(artifact: { id: string; status: string; name: string; contentType: string }): SignedUrl | null {
    if (artifact.status !== 'READY') return null;
    return app.storageUrls.sign(
      { method: 'GET', key: artifact.id, fileName: artifact.name, contentType: artifact.contentType },
      urlTtlS,
    );
  },
}));
