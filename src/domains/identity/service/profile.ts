import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { parse } from '#kernel/input.ts';
import { ProfileChange } from '../model.ts';
import { can } from '../policy.ts';

/** How people are called, and like to be served. The only writer of profile. */
export const Profiles = service('profiles', (app) => ({
  /** Changes what is given; null removes. @throws {ValidationError} {Unauthenticated} {Forbidden} */
  async updateProfile(actor: Actor, raw: unknown): Promise<{ readonly userId: string }> {
    const { name, ...likes } = parse(ProfileChange, raw);
    authorize(actor, can.updateProfile, null);
    const userId = actor.userId as string;
    const given = Object.fromEntries(Object.entries(likes).filter(([, value]) => value !== undefined));
    await app.transact(actor, async (tx) => {
      if (name) await tx.db.user.update({ where: { id: userId }, data: { name } });
      await tx.db.profile.upsert({ where: { userId }, create: { userId, ...given }, update: given });
    });
    return { userId };
  },
}));
