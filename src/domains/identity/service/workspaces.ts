import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { Conflict } from '#kernel/errors.ts';
import { newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { workspaceCreated } from '../events.ts';
import { NewWorkspace } from '../model.ts';
import { can } from '../policy.ts';
import { addMember, isTaken, type Written } from './shared.ts';

/** Workspaces themselves. */
export const Workspaces = service('workspaces', (app) => ({
  /** Creates a workspace whose owner is the actor. @throws {ValidationError} {Unauthenticated} {Forbidden} {Conflict} */
  async createWorkspace(actor: Actor, raw: unknown): Promise<Written> {
    const input = parse(NewWorkspace, raw);
    authorize(actor, can.createWorkspace, null);
    const userId = actor.userId as string;
    try {
      return await app.transact(actor, async (tx) => {
        const { id } = await tx.db.workspace.create({ data: { id: newId(), ...input } });
        await tx.db.eventHead.create({ data: { workspaceId: id } });
        const event = tx.append({ type: workspaceCreated, workspaceId: id, subjectId: id });
        await addMember(tx, id, userId, 'OWNER');
        return { id, workspaceId: id, event };
      });
    } catch (error) {
      if (isTaken(error)) throw new Conflict(`There is a workspace ${input.slug} already.`);
      throw error;
    }
  },
}));
