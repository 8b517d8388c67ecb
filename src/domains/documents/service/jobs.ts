import type { Document, Run } from '#prisma';
import { service, type App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { NotFound } from '#kernel/errors.ts';
import { isId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import type { RunContext } from '#kernel/runs/context.ts';
import { defineRunKind } from '#kernel/runs/kinds.ts';
import { openRun, Runs } from '#kernel/runs/runs.ts';
import { DocumentUnsupported } from '../../../integrations/extractors/index.ts';
import { DocumentQuarantined } from '../errors.ts';
import {
  extractionPhases,
  isExtractable,
  NewExtraction,
  type ExtractableFormat,
  type ExtractionInput,
} from '../model.ts';
import { can } from '../policy.ts';
import { Configurations } from './configurations.ts';
import { extract } from './extract.ts';
import { ModelUse } from './model-use.ts';
import { sentenceOf } from './quarantine.ts';
import { Reviews, reviewWaitS } from './review.ts';
import { DocumentSettings, lockDocument, type Written } from './shared.ts';
import { Tables } from './tables.ts';

/** Extractions as runs. Any worker may take one: all that it needs is in the database and in the blob store. */
export const extractionKind = defineRunKind<ExtractionInput>({
  name: 'ExtractionJob',
  versions: [1],
  phases: extractionPhases,
  initial: 'PENDING',
  ends: { canceled: () => 'CANCELED', failed: () => 'FAILED' },
  about: ({ documentId, configurationId }) => ({ documentId, ...(configurationId ? { configurationId } : {}) }),
  steps: () => ['detect', 'extract', 'persist'],
  begin: () => 'RUNNING',
  // Its time in the queue counts.
  deadlineS: 24 * 3600,
  waitS: reviewWaitS,
  execute: (context: RunContext<ExtractionInput>) => extract(context),
  async hasRoom(tx, { id, workspaceId, kind }, app) {
    const { maxConcurrentExtractions } = app.use(DocumentSettings);
    // What waits for a person holds no worker.
    const begun = await tx.db.run.count({
      where: { workspaceId, kind, completedAt: null, attempt: { gt: 0 }, status: { not: 'WAITING' }, id: { not: id } },
    });
    return begun < maxConcurrentExtractions;
  },
  async onCreate(tx, run, { documentId, configurationId, configurationVersion }) {
    await tx.db.extractionJob.create({ data: { id: run.id, documentId, configurationId, configurationVersion } });
  },
  onWait: (tx, run, _phase, app) => app.use(Reviews).open(tx, run),
  onEnd: (tx, run, _phase, app) => app.use(Reviews).over(tx, run),
  async retryInput(tx, run: Run) {
    const input = run.input as ExtractionInput;
    requireExtractable(await lockDocument(tx, input.documentId), input.documentId);
    return input;
  },
});

/** Asks for extractions; the run does them. */
export const ExtractionJobs = service('extraction jobs', (app) => ({
  /**
   * Queues an extraction. While one of the same document with the same version of the same configuration is open, that
   * one is answered: two would do the same.
   * @throws {ValidationError} {NotFound} {Forbidden} {Conflict} {IdempotencyConflict} {DocumentQuarantined}
   *   {DocumentUnsupported} {DocumentQuotaExceeded} {ExtractorUnavailable} {RateLimited}
   */
  async submit(actor: Actor, raw: unknown): Promise<Written> {
    const { idempotencyKey, ...input } = parse(NewExtraction, raw);
    const { documentId: id } = input;
    return app.transact(actor, async (tx) => {
      const document = isId(id) ? await lockDocument(tx, id) : null;
      authorizeRow(actor, can.submitExtractionJob, document, 'Document', id);
      const { workspaceId } = document;
      const request = { workspaceId, mutation: 'submitExtractionJob', key: idempotencyKey, input };
      const started = await app.use(Runs).once(tx, request, () => start(app, tx, document, input));
      return { ...started, workspaceId };
    });
  },
}));

async function start(
  app: App,
  tx: Transaction,
  document: Document,
  input: { configurationId?: string | null | undefined; configurationVersion?: number | null | undefined },
) {
  requireExtractable(document);
  const { id: documentId, workspaceId } = document;
  await app.use(Tables).requireRoom(tx.db, workspaceId);
  const chosen = await app.use(Configurations).choose(tx.db, workspaceId, {
    configurationId: input.configurationId,
    version: input.configurationVersion,
  });
  const { configurationId, version: configurationVersion } = chosen;
  const byModel = chosen.definition.extractor === 'MODEL';
  if (byModel) await app.use(ModelUse).requireAllowed(tx.db, workspaceId);
  const open = await tx.db.run.findFirst({
    where: {
      kind: extractionKind.name,
      ...openRun,
      extractionJob: { documentId, configurationId, configurationVersion },
      cancelRequestedAt: null,
    },
    select: { id: true },
  });
  if (open) return { id: open.id, event: { seq: null, epoch: 0 } };
  if (byModel) await app.use(ModelUse).requireRoom(tx.db, workspaceId);
  return app.use(Runs).create(tx, {
    kind: extractionKind,
    workspaceId,
    input: { documentId, configurationId, configurationVersion } satisfies ExtractionInput,
    trigger: 'API',
  });
}

/** @throws {NotFound} {DocumentQuarantined} {DocumentUnsupported} */
export function requireExtractable(document: Document | null, id = document?.id ?? ''): ExtractableFormat {
  if (!document || document.removalAskedAt) throw new NotFound('Document', id);
  if (document.status === 'QUARANTINED') {
    const problem = document.problem ?? 'UNKNOWN';
    throw new DocumentQuarantined(problem, sentenceOf(problem));
  }
  if (!isExtractable(document.format)) throw new DocumentUnsupported();
  return document.format;
}
