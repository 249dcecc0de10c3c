/** What each of the builders resolves with. */
export interface BuiltImage {
  /** Its whole name, as a pod gives it. */
  readonly reference: string;
  /** An OCI archive with the image under that name. */
  readonly archive: string;
}

/** Takes a line for a person. */
export type Logger = (line: string) => void;
