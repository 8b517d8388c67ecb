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
