import type { User } from '#prisma';
import { service } from '#kernel/app.ts';
import { anonymous, type Actor, type Origin } from '#kernel/auth/actor.ts';
import { instanceWorkspaceId } from '#kernel/auth/instance.ts';
import { authorize } from '#kernel/auth/policy.ts';
import { Denials } from '#kernel/audit/denials.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { NotFound, Unauthenticated } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineSealedColumn } from '#kernel/sealing/columns.ts';
import { Sealing } from '#kernel/sealing/sealing.ts';
import { ArrivalRefused, LastWayIn, type ArrivalRefusal } from '../errors.ts';
import { identityLinked, identityUnlinked, userSignedUp } from '../events.ts';
import { identityLinkedMail, identityUnlinkedMail } from '../mails.ts';
import { Email, IdentityUnlink, Name } from '../model.ts';
import { can } from '../policy.ts';
import { notify } from './addresses.ts';
import { Outside } from './outside.ts';
import { holdProof, reauthenticate } from './reauthentication.ts';
import { isTaken } from './shared.ts';
import { takeOver } from './take-over.ts';

const tokenColumn = defineSealedColumn({ table: 'external_identity', column: 'token' });

/** What another system says of somebody, once it is certain that it was that system. */
export interface Vouched {
  /** As in ExternalIdentity. */
  readonly provider: string;
  readonly subject: string;
  readonly email: string | null;
  readonly emailVerified: boolean;
  readonly name: string | null;
  /** A token of that system to be kept. */
  readonly token?: { readonly text: string; readonly scopes: readonly string[] };
}

/** Whom a system may vouch for. */
export interface Admission {
  /** Whether it may vouch for the account with this address. */
  mayBe(tx: Transaction, email: string): Promise<boolean>;
  /** Whether people without an account get one; else why not. */
  readonly mayMake: true | ArrivalRefusal;
}

/** Between the look and the lock somebody else was faster: look again. */
class Overtaken extends Error {}

const attempts = 4;

/** Takes a lock that ends with the transaction. */
const lockName = (tx: Transaction, name: string) =>
  tx.db.$executeRaw`select pg_advisory_xact_lock(hashtextextended(${name}, 0))`;

/** People whom other systems vouch for. The only writer of external_identity. */
export const External = service('external', (app) => {
  const keep = async (tx: Transaction, userId: string, vouched: Vouched, known: string | null): Promise<void> => {
    const { provider, subject, token } = vouched;
    const id = known ?? newId();
    const kept = token
      ? { token: await app.use(Sealing).seal(token.text, tokenColumn.context(id)), scopes: [...token.scopes] }
      : {};
    if (known !== null) {
      if (token) await tx.db.externalIdentity.update({ where: { id }, data: kept });
      return;
    }
    await tx.db.externalIdentity.create({ data: { id, userId, provider, subject, ...kept } });
    tx.append({ type: identityLinked, workspaceId: instanceWorkspaceId, subjectId: id, data: { userId } });
  };

  /** What a mail says of an identity and whose it is. */
  const mailed = async (tx: Transaction, { name }: User, provider: string) => {
    const [kind = '', of = ''] = provider.split(/:(.*)/s);
    if (kind === 'github') return { name, provider: 'GitHub' };
    const connection = kind === 'sso' ? await tx.db.ssoConnection.findUnique({ where: { id: of } }) : null;
    return { name, provider: connection ? `"${connection.name}" (${connection.issuer})` : of };
  };

  const find = async (vouched: Vouched): Promise<string | null> => {
    const { provider, subject, email } = vouched;
    const known = await app.db.externalIdentity.findUnique({
      where: { provider_subject: { provider, subject } },
      select: { userId: true },
    });
    if (known) return known.userId;
    const parsed = Email.safeParse(email ?? '');
    const user =
      parsed.success && (await app.db.user.findUnique({ where: { email: parsed.data }, select: { id: true } }));
    return user ? user.id : null;
  };

  /**
   * Who it is, by the subject if that is known, else by a verified address; with that address, a new account if there
   * was none. `expected` is whom the look before said, or the id of a new account.
   */
  const recognise = async (tx: Transaction, vouched: Vouched, admission: Admission, expected: string) => {
    const { provider, subject } = vouched;
    await lockName(tx, `identity ${provider} ${subject}`);
    const known = await tx.db.externalIdentity.findUnique({
      where: { provider_subject: { provider, subject } },
      include: { user: true },
    });
    if (known) {
      const { user } = known;
      if (user.id !== expected) throw new Overtaken();
      if (user.closedAt) throw new ArrivalRefused('ACCOUNT_CLOSED', { userId: user.id });
      // Their address at the provider may be another one; that of the account decides.
      if (!(await admission.mayBe(tx, user.email)))
        throw new ArrivalRefused('SSO_DOMAIN_NOT_CLAIMED', { userId: user.id });
      await keep(tx, user.id, vouched, known.id);
      return user.id;
    }
    const email = Email.safeParse(vouched.email ?? '');
    if (!email.success || !vouched.emailVerified) throw new ArrivalRefused('EMAIL_NOT_VERIFIED');
    if (!(await admission.mayBe(tx, email.data))) throw new ArrivalRefused('SSO_DOMAIN_NOT_CLAIMED');
    await tx.db.$queryRaw`select 1 from app_user where email = ${email.data} for update`;
    const user = await tx.db.user.findUnique({ where: { email: email.data } });
    if (user ? user.id !== expected : (await tx.db.user.count({ where: { id: expected } })) > 0) throw new Overtaken();
    if (user?.closedAt) throw new ArrivalRefused('ACCOUNT_CLOSED', { userId: user.id });
    const name = Name.safeParse((vouched.name ?? '').slice(0, 120));
    if (!user) {
      if (admission.mayMake !== true) throw new ArrivalRefused(admission.mayMake);
      await tx.db.user.create({
        data: {
          id: expected,
          email: email.data,
          name: name.success ? name.data : email.data.slice(0, email.data.indexOf('@')).slice(0, 120),
          emailVerifiedAt: new Date(),
        },
      });
      tx.append({ type: userSignedUp, workspaceId: instanceWorkspaceId, subjectId: expected });
    } else if (!user.emailVerifiedAt) {
      await takeOver(app, tx, user, { passwordHash: null, ...(name.success ? { name: name.data } : {}) });
    }
    await keep(tx, expected, vouched, null);
    if (user?.emailVerifiedAt) await notify(app, tx, user.email, identityLinkedMail(await mailed(tx, user, provider)));
    return expected;
  };

  return {
    /**
     * Lets somebody in whom another system vouches for, and does the rest in the same transaction. Of two who come at
     * once for the first time, one makes the account. Whoever is signed in as somebody else stays so: a page could have
     * sent them into an account of its own.
     * @throws {ArrivalRefused}
     */
    async arrive<T>(
      actor: Actor,
      vouched: Vouched,
      admission: Admission,
      then: (tx: Transaction, userId: string) => Promise<T>,
    ): Promise<T> {
      for (let attempt = 1; ; attempt++) {
        const expected = (await find(vouched)) ?? newId();
        if (actor.userId !== null && actor.userId !== expected) throw new ArrivalRefused('SIGNED_IN_AS_ANOTHER');
        try {
          return await app.transact({ ...actor, kind: 'SESSION', userId: expected, credentialId: null }, async (tx) =>
            then(tx, await recognise(tx, vouched, admission, expected)),
          );
        } catch (error) {
          if (attempt >= attempts || !(error instanceof Overtaken || isTaken(error))) throw error;
        }
      }
    },

    /**
     * Has another system vouch for somebody who is signed in, whatever their address is there.
     * @throws {ArrivalRefused} when it vouches for another account, or the session has ended meanwhile
     */
    async link(actor: Actor, userId: string, vouched: Vouched): Promise<void> {
      const { provider, subject } = vouched;
      await app.transact(actor, async (tx) => {
        await lockName(tx, `identity ${provider} ${subject}`);
        await tx.db.$queryRaw`select 1 from app_user where id = ${userId}::uuid for update`;
        const session = { id: actor.credentialId ?? '', userId, endedAt: null, expiresAt: { gt: new Date() } };
        if ((await tx.db.session.count({ where: session })) === 0) throw new ArrivalRefused('LINK_NEEDS_SESSION');
        const known = await tx.db.externalIdentity.findUnique({ where: { provider_subject: { provider, subject } } });
        if (known && known.userId !== userId) throw new ArrivalRefused('IDENTITY_TAKEN', { userId });
        await keep(tx, userId, vouched, known?.id ?? null);
        if (known) return;
        const user = await tx.db.user.findUniqueOrThrow({ where: { id: userId } });
        await notify(app, tx, user.email, identityLinkedMail(await mailed(tx, user, provider)));
      });
    },

    /**
     * The person whom a trusted issuer's token names; an ID token brings somebody who was not here yet.
     * @throws {Unauthenticated} {IssuerUnavailable}
     */
    async byToken(
      token: string,
      origin: Origin | null,
    ): Promise<{ readonly userId: string; readonly expiresAt: Date }> {
      const actor = { ...anonymous, origin };
      const { issuers, provisioning } = app.use(Outside);
      const claims = await issuers.verify(token);
      const { issuer, subject, expiresAt } = claims;
      const provider = `jwt:${issuer}`;
      const known = await app.db.externalIdentity.findUnique({
        where: { provider_subject: { provider, subject } },
        select: { userId: true },
      });
      if (known) return { userId: known.userId, expiresAt };
      // An access token says what a client may do, not who somebody is.
      if (claims.use === 'access') throw unknownSubject();
      const vouched = {
        provider,
        subject,
        email: claims.email,
        emailVerified: claims.emailVerified,
        name: claims.name,
      };
      const admission: Admission = {
        mayBe: async () => true,
        mayMake: provisioning.has(issuer) || 'ACCOUNT_UNKNOWN',
      };
      try {
        const userId = await this.arrive(actor, vouched, admission, async (_, id) => id);
        return { userId, expiresAt };
      } catch (error) {
        if (!(error instanceof ArrivalRefused)) throw error;
        app.use(Denials).signIn(actor, 'TOKEN', error.code, error.userId);
        throw unknownSubject(error.message);
      }
    },

    /** The token that GitHub gave for somebody; null: they are not linked. @throws {UnknownKey} {SealBroken} */
    async gitHubToken(userId: string): Promise<string | null> {
      const identity = await app.db.externalIdentity.findFirst({
        where: { userId, provider: 'github', token: { not: null } },
        orderBy: { id: 'desc' },
      });
      if (!identity?.token) return null;
      return app.use(Sealing).openText(identity.token, tokenColumn.context(identity.id));
    },

    /**
     * Has another system vouch for the actor no more.
     * @throws {Unauthenticated} {Forbidden} {ReauthenticationRequired} {RateLimited} {NotFound} {LastWayIn}
     */
    async unlinkIdentity(actor: Actor, raw: unknown): Promise<{ readonly id: string; readonly event: Appended }> {
      const { id, password } = parse(IdentityUnlink, raw);
      authorize(actor, can.unlinkIdentity, null);
      const proved = await reauthenticate(app, actor, password);
      const userId = proved.id;
      return app.transact(actor, async (tx) => {
        await holdProof(tx, actor, proved);
        const user = await tx.db.user.findUniqueOrThrow({ where: { id: userId }, include: { identities: true } });
        const identity = isId(id) ? user.identities.find((one) => one.id === id) : undefined;
        if (!identity) throw new NotFound('ExternalIdentity', id);
        if (user.passwordHash === null && user.identities.length === 1) throw new LastWayIn();
        await tx.db.externalIdentity.delete({ where: { id } });
        await notify(app, tx, user.email, identityUnlinkedMail(await mailed(tx, user, identity.provider)));
        const event = tx.append({
          type: identityUnlinked,
          workspaceId: instanceWorkspaceId,
          subjectId: id,
          data: { userId },
        });
        return { id, event };
      });
    },
  };
});

const unknownSubject = (message = 'The token names nobody who is known here.') => new Unauthenticated(message);
