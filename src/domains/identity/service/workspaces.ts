import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { hashToken } from '#kernel/crypto.ts';
import { Conflict, NotFound, ValidationError } from '#kernel/errors.ts';
import { newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { Runs } from '#kernel/runs/runs.ts';
import { workspaceCreated, workspaceDeleted, workspaceUpdated } from '../events.ts';
import { NewWorkspace, Token, WorkspaceChange, WorkspaceEnd } from '../model.ts';
import { can } from '../policy.ts';
import { receiptFor, type Requested } from './receipts.ts';
import { addMember, isTaken, lockWorkspace, mayGiveNow, requireOpen, type Written } from './shared.ts';
import { workspaceDeletionKind } from './workspace-deletion.ts';

/** Workspaces themselves. */
export const Workspaces = service('workspaces', (app) => ({
  /** Creates a workspace whose owner is the actor. @throws {ValidationError} {Unauthenticated} {Forbidden} {Conflict} */
  async createWorkspace(actor: Actor, raw: unknown): Promise<Written> {
    const input = parse(NewWorkspace, raw);
    authorize(actor, can.createWorkspace, null);
    const userId = actor.userId as string;
    try {
      return await app.transact(actor, async (tx) => {
        // Somebody whose account is being deleted owns nothing new: it would be left without an owner.
        await requireOpen(tx, userId);
        const { id } = await tx.db.workspace.create({ data: { id: newId(), ...input } });
        await tx.db.eventHead.create({ data: { workspaceId: id } });
        const event = tx.append({ type: workspaceCreated, workspaceId: id, subjectId: id });
        await addMember(tx, id, userId, 'OWNER');
        return { id, workspaceId: id, event };
      });
    } catch (error) {
      if (isTaken(error)) throw slugTaken(input.slug);
      throw error;
    }
  },

  /** Changes name and short name. @throws {ValidationError} {NotFound} {Forbidden} {Conflict} when the short name is taken */
  async updateWorkspace(actor: Actor, raw: unknown): Promise<Written> {
    const { id, name, slug } = parse(WorkspaceChange, raw);
    authorize(actor, can.updateWorkspace, id);
    try {
      return await app.transact(actor, async (tx) => {
        if (!(await lockWorkspace(tx, id))) throw new NotFound('Workspace', id);
        await mayGiveNow(tx, actor, can.updateWorkspace, id);
        await tx.db.workspace.update({
          where: { id },
          data: { ...(name == null ? {} : { name }), ...(slug == null ? {} : { slug }) },
        });
        const event = tx.append({ type: workspaceUpdated, workspaceId: id, subjectId: id });
        return { id, workspaceId: id, event };
      });
    } catch (error) {
      if (isTaken(error)) throw slugTaken(String(slug));
      throw error;
    }
  },

  /**
   * Closes a workspace at once, for everybody and every key, and queues the run that removes what it has.
   * @returns the receipt, told this once: whoever has it may read the outcome
   * @throws {ValidationError} when the short name is not the workspace's, {NotFound} {Forbidden} {IdempotencyConflict}
   */
  async deleteWorkspace(actor: Actor, raw: unknown): Promise<Requested> {
    const { id, slug, idempotencyKey } = parse(WorkspaceEnd, raw);
    const mutation = 'deleteWorkspace';
    // Keys are of a person; whoever is none is refused below.
    const key = actor.userId === null ? null : idempotencyKey;
    const { token: receipt, hash: receiptHash } = receiptFor(app, actor, { mutation, subject: id, key });
    // In the instance, where the run is: it outlives the workspace.
    const request = { workspaceId: instanceWorkspaceId, mutation, key, input: { id, slug } };
    const { event } = await app.transact(actor, (tx) =>
      // Rights are looked at after the repeat: nobody has any in a workspace that is closed.
      app.use(Runs).once(tx, request, async () => {
        authorize(actor, can.deleteWorkspace, id);
        // Who asks after somebody else did is a stranger by now.
        if (!(await lockWorkspace(tx, id))) throw new NotFound('Workspace', id);
        await mayGiveNow(tx, actor, can.deleteWorkspace, id);
        const workspace = await tx.db.workspace.findUniqueOrThrow({ where: { id }, select: { slug: true } });
        if (workspace.slug !== slug) {
          throw new ValidationError([{ path: 'slug', message: 'is not the short name of this workspace' }]);
        }
        await tx.db.workspace.update({ where: { id }, data: { deletedAt: new Date() } });
        tx.append({ type: workspaceDeleted, workspaceId: id, subjectId: id });
        const run = await app.use(Runs).create(tx, {
          kind: workspaceDeletionKind,
          workspaceId: instanceWorkspaceId,
          input: { workspaceId: id },
          lockKey: `workspace-deletion:${id}`,
          trigger: 'API',
        });
        await tx.db.workspaceDeletion.create({ data: { id: newId(), workspaceId: id, runId: run.id, receiptHash } });
        return run;
      }),
    );
    return { receipt, event };
  },

  /** The run and report of a deletion, for whoever has its receipt; null for a receipt that is none. */
  async deletion(receipt: string) {
    const parsed = Token.safeParse(receipt);
    if (!parsed.success) return null;
    return app.db.workspaceDeletion.findUnique({
      where: { receiptHash: hashToken(parsed.data) },
      include: { run: true },
    });
  },
}));

export type Workspaces = ReturnType<(typeof Workspaces)['make']>;

const slugTaken = (slug: string): Conflict => new Conflict(`There is a workspace ${slug} already.`);
