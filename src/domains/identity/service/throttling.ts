import type { App } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { RateLimited } from '#kernel/errors.ts';
import { networkOf } from '#kernel/rates/address.ts';
import { defineThrottle, Throttles } from '#kernel/rates/throttles.ts';

/*
 * Guessing passwords is limited three times: what one network fails at, what it fails at with one account, and what
 * everybody fails at with one account. The last one stops a guesser with many networks; alone it would also let them
 * lock the owner out for as long as they like. So it does not hold where the account was signed in to before: there
 * only the count of that network with that account holds, which nobody elsewhere can use up. Who guesses from the
 * owner's own network can keep that network out, for 15 minutes at a time; the owner gets in from elsewhere, or sets a
 * new password by mail, which lifts the limits of the account and of the network that it is done from.
 *
 * Unknown addresses are counted like known ones, so a limit does not tell whether there is an account. A good password
 * gives back what its try took: only failures count, and signing in to an account of one's own frees nothing else.
 */
const byNetwork = defineThrottle({
  name: 'identity.signIn.network',
  verbs: ['identity.signIn'],
  description: 'Refused sign-ins, by network of the client',
  points: 50,
  durationS: 600,
});
const byPair = defineThrottle({
  name: 'identity.signIn.networkAndAccount',
  verbs: ['identity.signIn'],
  description: 'Refused sign-ins, by network of the client and e-mail address',
  points: 8,
  durationS: 900,
});
const byAccount = defineThrottle({
  name: 'identity.signIn.account',
  verbs: ['identity.signIn'],
  description: 'Refused sign-ins, by e-mail address, from networks that the account was not signed in from before',
  points: 50,
  durationS: 3600,
});
const signUps = defineThrottle({
  name: 'identity.signUp',
  verbs: ['identity.signUp'],
  description: 'Sign-ups, by network of the client; SWITCHYARD_SIGN_UPS_PER_HOUR changes how many',
  points: 20,
  durationS: 3600,
});
const mailsByAccount = defineThrottle({
  name: 'identity.mail.account',
  verbs: ['identity.resendVerification', 'identity.changeEmail', 'identity.requestPasswordReset'],
  description: 'Mails for verification, change of address and password reset, by e-mail address or account',
  points: 5,
  durationS: 3600,
});
const resetsByNetwork = defineThrottle({
  name: 'identity.passwordReset.network',
  verbs: ['identity.requestPasswordReset'],
  description: 'Requests for a password reset, by network of the client',
  points: 20,
  durationS: 3600,
});
const tokensByNetwork = defineThrottle({
  name: 'identity.mailToken.network',
  verbs: ['identity.verifyEmail', 'identity.resetPassword'],
  description: 'Links of mails that were tried, by network of the client',
  points: 100,
  durationS: 3600,
});
const proofs = defineThrottle({
  name: 'identity.reauthentication',
  verbs: [
    'identity.changePassword',
    'identity.changeEmail',
    'identity.deleteMyAccount',
    'identity.beginIdentityLink',
    'identity.unlinkIdentity',
  ],
  description: 'Wrong passwords for sensitive verbs, by account',
  points: 10,
  durationS: 900,
});

const networkOfActor = (actor: Actor): string => networkOf(actor.origin?.address ?? '');
const pair = (actor: Actor, email: string): string => `${networkOfActor(actor)} ${email}`;

/** Takes a try to sign in, before the password is looked at. @throws {RateLimited} */
export async function beginSignIn(app: App, actor: Actor, email: string): Promise<void> {
  const throttles = app.use(Throttles);
  await throttles.consume(byNetwork, networkOfActor(actor));
  await throttles.consume(byPair, pair(actor, email));
  try {
    await throttles.consume(byAccount, email);
  } catch (error) {
    if (!(error instanceof RateLimited) || !(await isKnownPlace(app, networkOfActor(actor), email))) throw error;
  }
}

/** The password was good: the try does not count. */
export async function signInSucceeded(app: App, actor: Actor, email: string): Promise<void> {
  const throttles = app.use(Throttles);
  await throttles.forgive(byPair, pair(actor, email));
  for (const [rule, key] of [
    [byNetwork, networkOfActor(actor)],
    [byAccount, email],
  ] as const) {
    const { resetAt } = await throttles.peek(rule, key);
    // The window may have ended meanwhile: then there is nothing to give back.
    if (resetAt) await throttles.consume(rule, key, -1).catch(unlessLimited);
  }
}

/** Above the limit there is nothing to tell somebody who came from a known place. */
function unlessLimited(error: unknown): void {
  if (!(error instanceof RateLimited)) throw error;
}

/** They proved by mail who they are. */
export async function liftSignInLimits(app: App, actor: Actor, email: string): Promise<void> {
  await app.use(Throttles).forgive(byPair, pair(actor, email));
  await app.use(Throttles).forgive(byAccount, email);
}

/** Whether the account was signed in to from this network, as long as its sessions are remembered. */
async function isKnownPlace(app: App, network: string, email: string): Promise<boolean> {
  const places = await app.db.$queryRaw<{ address: string }[]>`
    select distinct s.address from session s join app_user u on u.id = s.user_id
    where u.email = ${email} and s.address is not null order by s.address limit 1000`;
  return places.some(({ address }) => networkOf(address) === network);
}

/** @throws {RateLimited} */
export async function throttleSignUp(app: App, actor: Actor, points: number): Promise<void> {
  await app.use(Throttles).consume({ ...signUps, points }, networkOfActor(actor));
}

/** Before a mail goes to an account or address. @throws {RateLimited} */
export async function throttleMail(app: App, to: string): Promise<void> {
  await app.use(Throttles).consume(mailsByAccount, to);
}

/** @throws {RateLimited} */
export async function throttleReset(app: App, actor: Actor, email: string): Promise<void> {
  await app.use(Throttles).consume(resetsByNetwork, networkOfActor(actor));
  await throttleMail(app, email);
}

/** @throws {RateLimited} */
export async function throttleToken(app: App, actor: Actor): Promise<void> {
  await app.use(Throttles).consume(tokensByNetwork, networkOfActor(actor));
}

/** Runs a look at somebody's password; only those that fail count. @throws {RateLimited} */
export async function throttleProof(app: App, userId: string, isGood: () => Promise<boolean>): Promise<boolean> {
  const throttles = app.use(Throttles);
  await throttles.consume(proofs, userId);
  const good = await isGood();
  if (good) await throttles.forgive(proofs, userId);
  return good;
}
