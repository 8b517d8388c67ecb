import path from 'node:path';
import type { App, Service } from '#kernel/app.ts';
import { createExtractors } from '../../../integrations/extractors/index.ts';
import { Copies } from './copies.ts';
import { DocumentExtractors, DocumentSettings } from './shared.ts';

export interface DocumentsOptions extends Omit<DocumentSettings, 'folder' | 'external'> {
  readonly stateDir: string;
}

/** Provides what documents need in this process, and removes what killed processes have left behind. */
export async function startDocuments(
  app: App,
  provided: Map<Service<unknown>, unknown>,
  { stateDir, ...limits }: DocumentsOptions,
): Promise<{ stop(): Promise<void> }> {
  provided.set(DocumentSettings, {
    ...limits,
    folder: path.join(stateDir, 'documents'),
    external: new Set(),
  } satisfies DocumentSettings);
  const extractors = createExtractors({});
  provided.set(DocumentExtractors, extractors);
  await app.use(Copies).sweep();
  return { stop: () => extractors.close() };
}
