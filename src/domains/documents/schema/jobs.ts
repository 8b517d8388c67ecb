import { prismaConnectionHelpers } from '@pothos/plugin-prisma';
import DataLoader from 'dataloader';
import { Conflict, IdempotencyConflict, RateLimited } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import type { Context } from '#kernel/graphql/context.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { eventCursor, failing, guarded, idempotencyKey, visible } from '#kernel/graphql/kit.ts';
import { asked } from '#kernel/graphql/selections.ts';
import { RunRef } from '#kernel/runs/schema.ts';
import { runUpdates } from '#kernel/runs/updates.ts';
import { DocumentQuarantined, DocumentQuotaExceeded } from '../errors.ts';
import { extractionPhases, type ExtractionPhase } from '../model.ts';
import { can } from '../policy.ts';
import {
  DocumentUnsupported,
  ExtractionJobs,
  extractionKind,
  ExtractorUnavailable,
  type Written,
} from '../service/index.ts';
import { ConfigurationRef, WarningRef } from './configurations.ts';
import { DocumentRef } from './documents.ts';

const phaseDescriptions: Record<ExtractionPhase, string> = {
  PENDING: 'Waits for a worker, or for room in its workspace.',
  RUNNING: 'The document is read; what is found is stored as it comes.',
  PERSISTING: 'All is read; corrections of earlier jobs are carried over and what was found is counted.',
  NEEDS_REVIEW: 'Some cells are uncertain: a person has to look at them. It holds no worker.',
  SUCCEEDED: 'All tables are there. Final.',
  FAILED: 'The document could not be read; what was found before is there, as a part. Final.',
  CANCELED: 'It was told to stop; what was found before is there, as a part. Final.',
};
const PhaseEnum = builder.enumType('ExtractionJobPhase', {
  description: 'Where an extraction stands.',
  values: Object.fromEntries(
    Object.keys(extractionPhases).map((phase) => [phase, { description: phaseDescriptions[phase as ExtractionPhase] }]),
  ) as Record<ExtractionPhase, { description: string }>,
});
const UnitEnum = builder.enumType('ExtractionUnit', {
  description: 'What the progress of an extraction is counted in.',
  values: { ROWS: { description: 'Rows of all tables.' }, PAGES: { description: 'Pages of the document.' } } as const,
});

interface Warning {
  readonly code: string;
  readonly message: string;
  readonly page?: number;
  readonly sheet?: string;
}

/** A job is a run: the Prisma model is Run, its own columns are reached through the relation. */
export const ExtractionJobRef = builder.prismaNode('Run', {
  variant: 'ExtractionJob',
  interfaces: [RunRef],
  id: { resolve: ({ id }) => id },
  description: 'Extracts the tables of a document.',
  ...guarded('Run'),
  fields: (t) => ({
    phase: t.field({
      type: PhaseEnum,
      description: 'Where it stands, finer than `status`.',
      compiled: { column: 'phase' },
      resolve: ({ phase }) => phase as ExtractionPhase,
    }),
    document: t.field({
      type: DocumentRef,
      description: 'What is read.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ extractionJob: { select: { document: nested() } } }),
      resolve: (run) => (run as unknown as { extractionJob: { document: never } }).extractionJob.document,
    }),
    configuration: t.field({
      type: ConfigurationRef,
      nullable: true,
      description: 'What it is read with, as it is now; null: the defaults.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ extractionJob: { select: { configuration: nested() } } }),
      resolve: (run) =>
        (run as unknown as { extractionJob: { configuration: never } | null }).extractionJob?.configuration ?? null,
    }),
    configurationVersion: t.int({
      nullable: true,
      description: 'The version of the configuration that it uses; null: the defaults.',
      compiled: 'selected',
      select: { extractionJob: { select: { configurationVersion: true } } },
      resolve: ({ extractionJob }) => extractionJob?.configurationVersion ?? null,
    }),
    extractor: t.string({
      nullable: true,
      description: 'What reads the document; null before it begins.',
      compiled: 'selected',
      select: { extractionJob: { select: { extractor: true } } },
      resolve: ({ extractionJob }) => extractionJob?.extractor ?? null,
    }),
    errorCode: t.string({
      nullable: true,
      description: 'Code of the error that ended it, see the error reference; `statusReason` tells it to a person.',
      compiled: 'selected',
      select: { extractionJob: { select: { errorCode: true } } },
      resolve: ({ extractionJob }) => extractionJob?.errorCode ?? null,
    }),
    unitsDone: t.int({
      description: 'How far it is, in `unit`.',
      compiled: 'selected',
      select: { extractionJob: { select: { unitsDone: true } } },
      resolve: ({ extractionJob }) => extractionJob?.unitsDone ?? 0,
    }),
    unitsTotal: t.int({
      nullable: true,
      description: 'How far it will go; null: not known yet.',
      compiled: 'selected',
      select: { extractionJob: { select: { unitsTotal: true } } },
      resolve: ({ extractionJob }) => extractionJob?.unitsTotal ?? null,
    }),
    unit: t.field({
      type: UnitEnum,
      nullable: true,
      description: 'What it is counted in; null: not known yet.',
      compiled: 'selected',
      select: { extractionJob: { select: { unit: true } } },
      resolve: ({ extractionJob }) => (extractionJob?.unit ?? null) as 'ROWS' | 'PAGES' | null,
    }),
    tableCount: t.int({
      description: 'Tables that it found; 0 until they are all there.',
      compiled: 'selected',
      select: { extractionJob: { select: { tableCount: true } } },
      resolve: ({ extractionJob }) => extractionJob?.tableCount ?? 0,
    }),
    rowCount: t.field({
      type: 'BigInt',
      description: 'Rows of them.',
      compiled: 'selected',
      select: { extractionJob: { select: { rowCount: true } } },
      resolve: ({ extractionJob }) => extractionJob?.rowCount ?? 0n,
    }),
    cellCount: t.field({
      type: 'BigInt',
      description: 'Cells of them.',
      compiled: 'selected',
      select: { extractionJob: { select: { cellCount: true } } },
      resolve: ({ extractionJob }) => extractionJob?.cellCount ?? 0n,
    }),
    reviewCount: t.field({
      type: 'BigInt',
      description: 'Cells that nobody has looked at and somebody should.',
      compiled: 'selected',
      select: { extractionJob: { select: { reviewCount: true } } },
      resolve: ({ extractionJob }) => extractionJob?.reviewCount ?? 0n,
    }),
    warnings: t.field({
      type: [WarningRef],
      description: 'What a reader of its tables should know, at most 200.',
      select: { extractionJob: { select: { warnings: true } } },
      resolve: ({ extractionJob }) => (extractionJob?.warnings ?? []) as unknown as Warning[],
    }),
  }),
});

runUpdates({
  kind: extractionKind,
  ref: ExtractionJobRef,
  of: { Document: 'documentId', ExtractionConfiguration: 'configurationId' },
});

// The rows that stand between a document, or a configuration, and its runs; a page of them is a part of its statement.
const jobPages = prismaConnectionHelpers(builder, 'ExtractionJob', {
  cursor: 'id',
  query: (_, context) => ({ where: { run: visible(context, 'Run') }, orderBy: { id: 'desc' as const } }),
  select: (run) => ({ run: run({}) }),
  resolveNode: ({ run }) => run,
});

interface Counts {
  readonly documentId: DataLoader<string, number>;
  readonly configurationId: DataLoader<string, number>;
}
const counts = new WeakMap<Context, Counts>();

/** How many jobs of a thing the actor may see; of many things in one statement. */
function countJobs(context: Context, by: keyof Counts, id: string): Promise<number> {
  const counting = (column: keyof Counts) =>
    new DataLoader<string, number>(async (ids) => {
      const found = await context.app.db.extractionJob.groupBy({
        by: [column],
        where: { [column]: { in: [...ids] }, run: visible(context, 'Run') },
        _count: { id: true },
      });
      const byId = new Map(found.map((one) => [one[column], one._count.id]));
      return ids.map((one) => byId.get(one) ?? 0);
    });
  let made = counts.get(context);
  if (!made) {
    made = { documentId: counting('documentId'), configurationId: counting('configurationId') };
    counts.set(context, made);
  }
  return made[by].load(id);
}

for (const [ref, by] of [
  [DocumentRef, 'documentId'],
  [ConfigurationRef as unknown as typeof DocumentRef, 'configurationId'],
] as const)
  builder.prismaObjectField(ref, 'jobs', (t) =>
    t.connection(
      {
        type: ExtractionJobRef,
        description: 'Its extractions, newest first.',
        compiled: 'selected',
        select: (args, context, nested) => ({
          // What is asked of a run stands below `edges` or `nodes`.
          jobs: jobPages.getQuery(args, context, (selection, path) =>
            asked(nested(selection, path), nested(selection, ['nodes'])),
          ),
        }),
        resolve: (one, args, context) => ({
          ...jobPages.resolve(one.jobs, args, context, one),
          totalCount: () => countJobs(context, by, one.id),
        }),
      },
      {
        fields: (c) => ({
          totalCount: c.int({
            description: 'How many there are, whatever the page.',
            resolve: (page) => (page as unknown as { totalCount: () => Promise<number> }).totalCount(),
          }),
        }),
      },
    ),
  );

const JobSuccess = builder.objectRef<Written>('SubmitExtractionJobSuccess').implement({
  description: 'The job is queued; or one that does the same is open, and is this one.',
  fields: (t) => ({
    job: t.prismaField({
      type: ExtractionJobRef,
      description: 'The job.',
      resolve: (query, { id }, _, { app }) => app.db.run.findUniqueOrThrow({ ...query, where: { id } }),
    }),
    eventCursor: t.string(eventCursor),
  }),
});

builder.mutationField('submitExtractionJob', (t) =>
  t.fieldWithInput({
    access: can.submitExtractionJob,
    type: JobSuccess,
    errors: failing(
      Conflict,
      IdempotencyConflict,
      DocumentQuarantined,
      DocumentQuotaExceeded,
      DocumentUnsupported,
      ExtractorUnavailable,
      RateLimited,
    ),
    description:
      'Extracts the tables of a document. While a job of the same document with the same version of the same configuration is open, that one is answered.',
    input: {
      documentId: t.input.id({ description: 'Global id of the document.' }),
      configurationId: t.input.id({
        required: false,
        description: 'Global id of the configuration; absent: everything is found out from the document.',
      }),
      configurationVersion: t.input.int({
        required: false,
        description: 'Which version of it; default: the one that holds.',
      }),
      idempotencyKey: t.input.string(idempotencyKey),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(ExtractionJobs).submit(actor, {
        ...input,
        documentId: rowId('Document', input.documentId),
        configurationId: input.configurationId && rowId('ExtractionConfiguration', input.configurationId),
      }),
  }),
);
