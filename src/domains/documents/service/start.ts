import path from 'node:path';
import type { App, Service } from '#kernel/app.ts';
import { Llm } from '#kernel/llm.ts';
import { createExtractors, type Definition } from '../../../integrations/extractors/index.ts';
import { Copies } from './copies.ts';
import { Readers, readersOf, slots } from './readers.ts';
import { DocumentExtractors, DocumentSettings } from './shared.ts';

export interface DocumentsOptions extends Omit<DocumentSettings, 'folder' | 'extractors'> {
  readonly stateDir: string;
  /** Runs that this process executes at once. */
  readonly workers: number;
  /** A service that reads documents; undefined: there is none. */
  readonly external: { readonly url: string; readonly key: { reveal(): string } | undefined } | undefined;
  /** Whether it may be on this machine. */
  readonly allowLoopback: boolean;
}

/** Provides what documents need in this process, and removes what killed processes have left behind. */
export async function startDocuments(
  app: App,
  provided: Map<Service<unknown>, unknown>,
  { stateDir, workers, external, allowLoopback, ...limits }: DocumentsOptions,
): Promise<{ stop(): Promise<void> }> {
  const { model } = app.use(Llm);
  provided.set(DocumentSettings, {
    ...limits,
    folder: path.join(stateDir, 'documents'),
    extractors: new Set<NonNullable<Definition['extractor']>>([
      'BUILT_IN',
      ...(external ? (['HTTP'] as const) : []),
      ...(model ? (['MODEL'] as const) : []),
    ]),
  } satisfies DocumentSettings);
  const http = external && { ...external, allowLoopback };
  // Jobs do not keep those waiting who look at a document.
  const jobs = createExtractors({ maxChildren: workers, http, model });
  const readers = createExtractors({ maxChildren: slots, http });
  provided.set(DocumentExtractors, jobs);
  provided.set(Readers, readersOf(readers));
  await app.use(Copies).sweep();
  return {
    async stop() {
      await jobs.close();
      await readers.close();
    },
  };
}
