import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';
import { UploadMismatch, UploadTooLarge, type PutOptions, type StoredBlob } from './store.ts';

/** What is being stored, for the stores: counted and hashed while it passes. */
export interface Intake {
  /** Ends early when it is more than it may be, or was aborted: `stored` says so. */
  readonly chunks: AsyncIterable<Buffer>;
  /** What has passed. @throws UploadTooLarge, UploadMismatch, or the reason of the abort */
  stored(): StoredBlob;
}

/** Reads the source to its end, one chunk at a time, and leaves it open. */
export function intake(source: Readable, { maxBytes, expect, signal }: PutOptions): Intake {
  const limit = Math.min(maxBytes, expect?.sizeBytes ?? maxBytes);
  const hash = createHash('sha256');
  let sizeBytes = 0;
  return {
    chunks: (async function* () {
      try {
        // Destroying a request would also close the socket that the refusal is to be written to.
        const parts: AsyncIterable<Uint8Array | string> = source.iterator({ destroyOnReturn: false });
        for await (const part of parts) {
          const chunk = typeof part === 'string' ? Buffer.from(part) : Buffer.from(part.buffer, part.byteOffset, part.byteLength); // prettier-ignore
          sizeBytes += chunk.length;
          if (sizeBytes > limit) return;
          hash.update(chunk);
          yield chunk;
        }
      } catch (error) {
        // An aborted source ends with "premature close", which is not the reason.
        signal?.throwIfAborted();
        throw error;
      }
    })(),
    stored() {
      signal?.throwIfAborted();
      if (sizeBytes > limit) throw new UploadTooLarge(limit);
      const stored = { sizeBytes, sha256: hash.digest('hex') };
      if (expect && (expect.sizeBytes !== sizeBytes || expect.sha256 !== stored.sha256)) {
        throw new UploadMismatch(expect, stored);
      }
      return stored;
    },
  };
}

/** An error of the source is thrown to whoever iterates over it; the event must only not go unheard. */
export function readerReports(): void {}
