"""What finished runs say together: tables, figures and a page. Reads logs/ and params/."""
