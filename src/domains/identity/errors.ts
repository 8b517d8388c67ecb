import { DomainError } from '#kernel/errors.ts';

/** Unknown address or wrong password: the answer is the same. */
export class SignInRefused extends DomainError {
  readonly code = 'SIGN_IN_REFUSED';
  constructor() {
    super('The e-mail address or the password is wrong.');
  }
}

/** A workspace must keep an owner. */
export class LastOwner extends DomainError {
  readonly code = 'LAST_OWNER';
  constructor() {
    super('This is the last owner of the workspace. Make somebody else an owner first.');
  }
}

/** The secret of a mail is not good: unknown, used, replaced by a newer one, or too old. Which one is not said. */
export class TokenRefused extends DomainError {
  readonly code = 'TOKEN_REFUSED';
  constructor() {
    super('This link is not good any more. Ask for a new one.');
  }
}

/** What somebody has to do before a sensitive verb: give their password, or sign in again. */
export type Proof = 'PASSWORD' | 'SIGN_IN';

/** A session alone is not enough for this: the person has to prove once more who they are. */
export class ReauthenticationRequired extends DomainError {
  readonly code = 'REAUTHENTICATION_REQUIRED';
  readonly proof: Proof;
  constructor(proof: Proof) {
    super(proof === 'PASSWORD' ? 'Give your password, the one that is good now.' : 'Sign in again, then do this.');
    this.proof = proof;
  }
}

/** Somebody who has no password cannot change it. */
export class NoPassword extends DomainError {
  readonly code = 'NO_PASSWORD';
  constructor() {
    super('You have no password. Ask for a password reset to set one.');
  }
}

/** The document was written since the caller read it. */
export class VersionConflict extends DomainError {
  readonly code = 'VERSION_CONFLICT';
  /** The version that it has now. */
  readonly currentVersion: number;
  constructor(currentVersion: number) {
    super(`It is at version ${currentVersion} by now. Read it again, and write on top of that.`);
    this.currentVersion = currentVersion;
  }
}

/** Workspaces would lose their last owner. */
export class LastOwnerOf extends DomainError {
  readonly code = 'LAST_OWNER_OF';
  readonly workspaces: readonly { readonly id: string; readonly name: string }[];
  constructor(workspaces: LastOwnerOf['workspaces']) {
    super(
      `You are the last owner of ${workspaces.map(({ name }) => name).join(', ')}. Make somebody else an owner, or delete them first.`,
    );
    this.workspaces = workspaces;
  }
}

/** They belong to the workspace already. */
export class AlreadyMember extends DomainError {
  readonly code = 'ALREADY_MEMBER';
  constructor() {
    super('This person is a member of the workspace already.');
  }
}

/** The token is of no invitation, or of one that was answered, taken back or sent anew, or whose maker may not give that role any more. */
export class InvitationInvalid extends DomainError {
  readonly code = 'INVITATION_INVALID';
  constructor() {
    super('This invitation is not valid, or no longer. Ask for a new one.');
  }
}

/** The invitation was not accepted in time. */
export class InvitationExpired extends DomainError {
  readonly code = 'INVITATION_EXPIRED';
  /** Since when. */
  readonly expiredAt: Date;
  constructor(expiredAt: Date) {
    super(`This invitation expired at ${expiredAt.toISOString()}. Ask for a new one.`);
    this.expiredAt = expiredAt;
  }
}

/** The invitation was sent to another e-mail address than that of the account. */
export class InvitationForSomebodyElse extends DomainError {
  readonly code = 'INVITATION_FOR_SOMEBODY_ELSE';
  constructor() {
    super('This invitation was sent to another e-mail address than that of your account.');
  }
}

/** What is wrong with a provider; see SsoMisconfigured. */
export type SsoProblem = 'ADDRESS_REFUSED' | 'UNREACHABLE' | 'NO_PROVIDER' | 'ISSUER_MISMATCH' | 'UNSUPPORTED';

/** The provider cannot be used as it was given. */
export class SsoMisconfigured extends DomainError {
  readonly code = 'SSO_MISCONFIGURED';
  readonly reason: SsoProblem;
  constructor(reason: SsoProblem, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** The text was not found in the domain's DNS. */
export class DomainNotVerified extends DomainError {
  readonly code = 'DOMAIN_NOT_VERIFIED';
  /** Name of the TXT record. */
  readonly record: string;
  constructor(record: string) {
    super(`There is no TXT record ${record} with the challenge. A change of DNS can take hours to be seen.`);
    this.record = record;
  }
}

/** Nobody could come in: there is no provider that is switched on, or no verified domain. */
export class SsoNotReady extends DomainError {
  readonly code = 'SSO_NOT_READY';
  constructor() {
    super(
      'Without a provider and a verified domain nobody but owners would reach the workspace while it enforces them.',
    );
  }
}

/** Whoever gives this up could not sign in any more. */
export class LastWayIn extends DomainError {
  readonly code = 'LAST_WAY_IN';
  constructor() {
    super('This is the only way in to your account. Set a password first, or link another one.');
  }
}

/** Why somebody who came back from another system does not get in. Stable: clients show texts of their own for them. */
export type ArrivalRefusal =
  | 'SIGN_IN_INVALID'
  | 'SIGN_IN_EXPIRED'
  | 'SIGN_IN_USED'
  | 'RETURN_TO_REFUSED'
  | 'RATE_LIMITED'
  | 'PROVIDER_UNKNOWN'
  | 'PROVIDER_UNAVAILABLE'
  | 'PROVIDER_REFUSED'
  | 'ACCESS_DENIED'
  | 'EMAIL_NOT_VERIFIED'
  | 'SSO_DOMAIN_NOT_CLAIMED'
  | 'SSO_NOT_A_MEMBER'
  | 'ACCOUNT_CLOSED'
  | 'ACCOUNT_UNKNOWN'
  | 'LINK_NEEDS_SESSION'
  | 'SIGNED_IN_AS_ANOTHER'
  | 'IDENTITY_TAKEN';

/** Somebody whom another system vouches for, or should, does not get in. Told to their browser, and never by GraphQL. */
export class ArrivalRefused extends Error {
  override readonly name = 'ArrivalRefused';
  readonly code: ArrivalRefusal;
  /** The account, where there is one; for the log. */
  readonly userId: string | null;
  constructor(code: ArrivalRefusal, options: { readonly userId?: string | null; readonly cause?: unknown } = {}) {
    super(refusals[code], options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.userId = options.userId ?? null;
  }
}

const refusals: Readonly<Record<ArrivalRefusal, string>> = {
  SIGN_IN_INVALID: 'This browser began no such sign-in. Begin again.',
  SIGN_IN_EXPIRED: 'The sign-in took too long. Begin again.',
  SIGN_IN_USED: 'This sign-in was completed already. Begin again.',
  RETURN_TO_REFUSED: 'returnTo must be a path of this server, or at one of its CORS_ORIGINS.',
  RATE_LIMITED: 'Too many tries. Wait a few minutes.',
  PROVIDER_UNKNOWN: 'There is no such way to sign in.',
  PROVIDER_UNAVAILABLE: 'The provider cannot be used now. Try again later.',
  PROVIDER_REFUSED: 'The answer of the provider was not accepted. Begin again.',
  ACCESS_DENIED: 'The sign-in was refused at the provider.',
  EMAIL_NOT_VERIFIED: 'The provider does not vouch for a verified e-mail address.',
  SSO_DOMAIN_NOT_CLAIMED: 'The e-mail address is not in a verified domain of the workspace.',
  SSO_NOT_A_MEMBER: 'You are not a member of the workspace.',
  ACCOUNT_CLOSED: 'The account was closed.',
  ACCOUNT_UNKNOWN: 'There is no account for this identity.',
  LINK_NEEDS_SESSION: 'Sign in first, in this browser, and begin from the application.',
  SIGNED_IN_AS_ANOTHER: 'Somebody else is signed in in this browser. Sign out first.',
  IDENTITY_TAKEN: 'This identity belongs to another account.',
};
