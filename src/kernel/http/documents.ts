import type { DocumentNode } from 'graphql';

/** Most documents that are kept. */
const maxDocuments = 500;
/** Memory that they may take together, bytes: a document of 2000 tokens takes about one megabyte. */
const maxBytes = 50_000_000;
/** Every so manieth document that is asked for becomes the last one. */
const moveEvery = 8;
/** What a token of a parsed document takes, as measured: the token, its place, and its share of the nodes. */
const bytesPerToken = 512;

/**
 * Parsed documents that were found good, those used last. Others are not kept: anybody could fill the memory with them,
 * and a client that works has no use for them.
 */
export class Documents {
  readonly #kept = new Map<string, DocumentNode>();
  readonly #sources = new WeakMap<DocumentNode, string>();
  #bytes = 0;
  #asked = 0;

  has(source: string): boolean {
    return this.#kept.has(source);
  }

  get(source: string): DocumentNode | undefined {
    const document = this.#kept.get(source);
    // Those that are asked for often are among the last in any case.
    if (document && this.#asked++ % moveEvery === 0) {
      this.#kept.delete(source);
      this.#kept.set(source, document);
    }
    return document;
  }

  /** Remembers what a document was parsed from, for as long as somebody has it. */
  set(source: string, document: DocumentNode): void {
    this.#sources.set(document, source);
  }

  /** Keeps a document that was parsed and found good. */
  keep(document: DocumentNode): void {
    const source = this.#sources.get(document);
    if (source === undefined || this.#kept.has(source)) return;
    this.#kept.set(source, document);
    this.#bytes += bytesOf(source, document);
    for (const [oldest, one] of this.#kept) {
      if (this.#kept.size <= maxDocuments && this.#bytes <= maxBytes) break;
      this.#kept.delete(oldest);
      this.#bytes -= bytesOf(oldest, one);
    }
  }
}

const bytesOf = (source: string, document: DocumentNode): number =>
  2 * source.length + bytesPerToken * (document.tokenCount ?? source.length);
