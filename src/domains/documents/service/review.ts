import type { Run } from '#prisma';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { NotFound } from '#kernel/errors.ts';
import { isId } from '#kernel/ids.ts';
import { Inbox } from '#kernel/inbox/inbox.ts';
import { Runs } from '#kernel/runs/runs.ts';
import { NotInReview } from '../errors.ts';
import { can } from '../policy.ts';
import type { Written } from './shared.ts';

/** How long a job waits for its review, seconds. Its tables stay when nobody comes. */
export const reviewWaitS = 90 * 24 * 3600;

const keyOf = (jobId: string): string => `documents.review:${jobId}`;

/** Reviews of what a job has extracted: a job in NEEDS_REVIEW waits for a person, and holds no worker. */
export const Reviews = service('reviews', (app) => ({
  /** A job begins to wait: people are told. */
  async open(tx: Transaction, run: Pick<Run, 'id' | 'workspaceId'>): Promise<void> {
    const job = await tx.db.extractionJob.findUniqueOrThrow({
      where: { id: run.id },
      select: { reviewCount: true, documentId: true, document: { select: { name: true } } },
    });
    await app.use(Inbox).open(tx, {
      workspaceId: run.workspaceId,
      kind: 'documents.review',
      subjectType: 'ExtractionJob',
      subjectId: run.id,
      title: `Cells of ${job.document.name} that want a look: ${job.reviewCount}`,
      data: { cells: Number(job.reviewCount), documentId: job.documentId },
      key: keyOf(run.id),
    });
  },

  /** A job is over, whatever it was that ended it. Fine when it never waited. */
  async over(tx: Transaction, run: Pick<Run, 'id' | 'workspaceId'>): Promise<void> {
    await app.use(Inbox).resolve(tx, run.workspaceId, keyOf(run.id));
  },

  /**
   * Ends a job that waits for its review. Cells that nobody has looked at stay as they are, and say so.
   * @throws {NotFound} {Forbidden} {NotInReview} when it does not wait
   */
  async complete(actor: Actor, jobId: string): Promise<Written> {
    if (!isId(jobId)) throw new NotFound('ExtractionJob', jobId);
    return app.transact(actor, async (tx) => {
      const run = await app.use(Runs).lock(tx, jobId);
      const job = run?.kind === 'ExtractionJob' ? run : null;
      authorizeRow(actor, can.completeReview, job, 'ExtractionJob', jobId);
      const { reviewCount } = await tx.db.extractionJob.findUniqueOrThrow({ where: { id: jobId } });
      return { id: jobId, workspaceId: job.workspaceId, event: await this.end(tx, job, reviewCount) };
    });
  },

  /** Ends the review of a job whose run is locked. @throws {NotInReview} when it does not wait */
  async end(tx: Transaction, run: Run, left: bigint): Promise<Appended> {
    if (run.phase !== 'NEEDS_REVIEW' || run.status !== 'WAITING') throw new NotInReview(run.phase);
    await tx.db.extractionJob.update({ where: { id: run.id }, data: { reviewedById: tx.actor.userId } });
    return app.use(Runs).end(tx, run, {
      phase: 'SUCCEEDED',
      reason: left === 0n ? 'It was reviewed.' : `It was reviewed; ${left} cells were left as they were read.`,
    });
  },
}));
