import { randomUUID } from 'node:crypto';
import { open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { createOutboundFetch, OutboundFailed, type OutboundFetch } from '#kernel/outbound-fetch.ts';
import { createOutboundPolicy, OutboundRefused } from '#kernel/outbound.ts';
import { contentTypes } from './content-types.ts';
import { DocumentBeyondLimits, DocumentUnsupported, ExtractorUnavailable, type Limits } from './errors.ts';
import type { ExtractRequest } from './extractor.ts';

export interface HttpExtractorOptions {
  /** The operator's: it may be of a private network. */
  readonly url: string;
  /** Sent as a bearer token. */
  readonly key?: { reveal(): string } | undefined;
  readonly allowLoopback: boolean;
  /** Longest answer, bytes. */
  readonly maxAnswerBytes?: number;
}

/** A document goes there whole, and from memory. */
const maxDocumentBytes = 67_108_864;
const defaultAnswerBytes = 67_108_864;

/** Asks another program for the tables of a document. Its answer is read by a child process, as a document is. */
export interface HttpExtractor {
  /**
   * The answer, in a file that goes away with `use`.
   * @throws ExtractorUnavailable, DocumentBeyondLimits, DocumentUnsupported, the signal's reason
   */
  ask<T>(request: ExtractRequest, limits: Limits, use: (file: string) => AsyncIterable<T>): AsyncIterable<T>;
}

export function createHttpExtractor(options: HttpExtractorOptions): HttpExtractor {
  const { maxAnswerBytes = defaultAnswerBytes, allowLoopback, key } = options;
  const policy = createOutboundPolicy({ allowLoopback, allowPrivate: true });
  const fetchOf = (timeoutMs: number): OutboundFetch =>
    createOutboundFetch({ policy, timeoutMs, maxBytes: maxAnswerBytes });

  const send = async ({ file, format, definition, signal }: ExtractRequest, limits: Limits): Promise<Buffer> => {
    const most = Math.min(limits.maxBytes, maxDocumentBytes);
    if ((await stat(file)).size > most) throw new DocumentBeyondLimits('maxBytes', most);
    const url = new URL(options.url);
    url.searchParams.set('format', format);
    const { pages, sheets, locale } = definition;
    if (pages !== undefined) url.searchParams.set('pages', pages);
    if (locale !== undefined) url.searchParams.set('locale', locale);
    for (const sheet of sheets ?? []) url.searchParams.append('sheet', sheet);
    let answer: Response;
    try {
      answer = await fetchOf(limits.timeoutMs)(url, {
        method: 'POST',
        headers: {
          'content-type': contentTypes[format],
          accept: 'application/json',
          ...(key ? { authorization: `Bearer ${key.reveal()}` } : {}),
        },
        body: await readFile(file, { signal }),
        signal,
      });
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof OutboundFailed)
        throw new ExtractorUnavailable(`The external extractor gives no usable answer: ${error.reason}.`);
      if (error instanceof OutboundRefused)
        throw new ExtractorUnavailable('The external extractor is at an address that is not allowed.');
      throw error;
    }
    if (answer.status === 415 || answer.status === 422)
      throw new DocumentUnsupported('The external extractor does not read this document.');
    if (!answer.ok) throw new ExtractorUnavailable(`The external extractor answered ${answer.status}.`);
    return Buffer.from(await answer.arrayBuffer());
  };

  return {
    async *ask(request, limits, use) {
      const answer = await send(request, limits);
      // Beside the document's own copy: with that it goes when this process is killed.
      const file = path.join(path.dirname(request.file), `answer-${randomUUID()}`);
      await (await open(file, 'wx', 0o600)).close();
      try {
        await writeFile(file, answer, { signal: request.signal });
        yield* use(file);
      } finally {
        await rm(file, { force: true });
      }
    },
  };
}
