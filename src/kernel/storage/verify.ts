import { createHash } from 'node:crypto';
import { pipeline, Transform, type Readable } from 'node:stream';
import { DomainError } from '../errors.ts';
import type { StoredBlob } from './store.ts';

/** Bytes that were verified when they were stored are gone, or are other ones by now. Trying again does not help. */
export class FileDamaged extends DomainError {
  readonly code = 'FILE_DAMAGED';
  constructor(key: string, what: string) {
    super(`The file ${key} is damaged: ${what}.`);
  }
}

/**
 * The same bytes; the stream fails with FileDamaged before its end unless they are the expected ones. So nothing that
 * was read may be relied on before the end. Destroying it destroys the source; `signal` destroys both.
 */
export function verified(key: string, source: Readable, expect: StoredBlob, signal?: AbortSignal): Readable {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const check = new Transform({
    transform(chunk: Buffer, _, done) {
      sizeBytes += chunk.length;
      hash.update(chunk);
      done(sizeBytes > expect.sizeBytes ? new FileDamaged(key, 'it is longer than it was') : null, chunk);
    },
    flush(done) {
      if (sizeBytes < expect.sizeBytes) done(new FileDamaged(key, 'it is shorter than it was'));
      else if (hash.digest('hex') !== expect.sha256) done(new FileDamaged(key, 'its bytes are other ones'));
      else done();
    },
  });
  const abort = (): void => void check.destroy(signal?.reason instanceof Error ? signal.reason : undefined);
  signal?.addEventListener('abort', abort, { once: true });
  // A failure of the source is told to whoever reads: the pipeline destroys the stream with it.
  pipeline(source, check, () => signal?.removeEventListener('abort', abort));
  if (signal?.aborted) abort();
  return check;
}
