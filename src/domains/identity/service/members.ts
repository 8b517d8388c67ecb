import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize, authorizeRow } from '#kernel/auth/policy.ts';
import type { Transaction } from '#kernel/db/transact.ts';
import { Forbidden, NotFound, ValidationError } from '#kernel/errors.ts';
import { parse } from '#kernel/input.ts';
import { RoleChange } from '../model.ts';
import { can } from '../policy.ts';
import { endMembership, giveRole, lockMembership, lockWorkspace, mayGiveNow, type Written } from './shared.ts';

/** Who belongs to a workspace, and as what. */
export const Members = service('members', (app) => ({
  /** @throws {ValidationError} {NotFound} {Forbidden} {LastOwner} */
  async changeMemberRole(actor: Actor, raw: unknown): Promise<Written> {
    const input = parse(RoleChange, raw);
    return app.transact(actor, async (tx) => {
      const membership = await lockMembership(tx, input.membershipId);
      authorizeRow(actor, can.changeMemberRole, membership, 'Membership', input.membershipId);
      const { workspaceId, role } = membership;
      await mayGiveNow(tx, actor, can.changeMemberRole, workspaceId, role, input.role);
      return giveRole(tx, membership, input.role);
    });
  },

  /** Ends a membership, and with it the API keys that the person made there. @throws {NotFound} {Forbidden} {LastOwner} */
  async removeMember(actor: Actor, membershipId: string): Promise<Written> {
    return app.transact(actor, async (tx) => {
      const membership = await lockMembership(tx, membershipId);
      authorizeRow(actor, can.removeMember, membership, 'Membership', membershipId);
      await mayGiveNow(tx, actor, can.removeMember, membership.workspaceId, membership.role);
      return endMembership(tx, membership);
    });
  },

  /**
   * Ends the actor's own membership. Also where the workspace's provider keeps them out.
   * @throws {Unauthenticated} {Forbidden} {NotFound} {LastOwner}
   */
  async leaveWorkspace(actor: Actor, workspaceId: string): Promise<Written> {
    authorize(actor, can.leaveWorkspace, null);
    return app.transact(actor, async (tx) => {
      const own = (await lockWorkspace(tx, workspaceId)) && (await membershipOf(tx, actor, workspaceId));
      if (!own) throw new NotFound('Workspace', workspaceId);
      return endMembership(tx, own);
    });
  },

  /**
   * Makes a member an owner, and the actor, who is one, an administrator: both or none.
   * @throws {NotFound} {Forbidden} {ValidationError} for one's own membership
   * @throws {LastOwner} when the account of that member is being deleted, and no other owner is left
   */
  async transferOwnership(actor: Actor, membershipId: string): Promise<Written> {
    return app.transact(actor, async (tx) => {
      const membership = await lockMembership(tx, membershipId);
      authorizeRow(actor, can.transferOwnership, membership, 'Membership', membershipId);
      const { workspaceId } = membership;
      const own = await membershipOf(tx, actor, workspaceId);
      // Somebody may have been faster than this lock.
      if (own?.role !== 'OWNER') throw new Forbidden(can.transferOwnership.name, workspaceId);
      if (own.id === membership.id) {
        throw new ValidationError([{ path: 'membershipId', message: 'is your own: give it to somebody else' }]);
      }
      if (membership.role !== 'OWNER') await giveRole(tx, membership, 'OWNER');
      const { event } = await giveRole(tx, own, 'ADMIN');
      return { id: membership.id, workspaceId, event };
    });
  },
}));

const membershipOf = (tx: Transaction, { userId }: Actor, workspaceId: string) =>
  tx.db.membership.findUnique({ where: { workspaceId_userId: { workspaceId, userId: userId as string } } });
